"""The exception tree. Bad data is never here: it is a reject value that becomes a dead letter.

FraudstreamError                 everything this package raises on purpose
|- ConfigError                   a setting, file or flag is wrong; the user can fix it (exit 2)
|- ServiceError                  a local Kafka or Redis could not be started, reached or stopped
|  `- ToolMissing                Java or Maven is not on this machine, or Java is too old
|- BrokerError                   Kafka refused or lost something; carries topic, partition, offset
|- StoreError                    the state store cannot be used
|  |- StoreUnready               a check at start failed; the message says the remedy
|  |  `- LogShort                the topic's log ends before the state
|  |- StoreLost                  no answer came; the same call may be repeated as it was
|  |  `- StoreLoading            Redis reads its file after a start: that ends by itself
|  `- PartitionError             about one partition; carries partition and offset
|     |- Fenced                  a newer owner holds the partition: give it up
|     |- Conflict                the stored offset is not the one last seen: reload and seek
|     |- StoreFull               Redis is out of memory (`noeviction`): pause and retry
|     `- RecordCorrupt           an account record fails its checksum or version
|- BundleError                   a model bundle is damaged, foreign or does not fit the features
|  |- BundleMissing              there is no bundle of that name (exit 2)
|  `- BundleMisnamed             a name that could lead out of a folder (exit 2)
|- OutputTaken                   what is to be written would replace something else (exit 2; model)
|- OutputLost                    a finished bundle whose place was lost; it lies elsewhere (model)
|- DeviceMissing                 a device that is named and not here (exit 2; model)
|- DeviceFailed                  a GPU that is here and cannot take the model (model)
|- DatasetError                  a training set is damaged, foreign or too small (both: model)
|  `- DatasetMissing             there is no training set at that path (exit 2)
|- NotLeader                     another worker builds the risk snapshots now (live/risk_store.py)
|- Stalled                       messages wait and nothing happens: exit (live/watchdog.py)
|- RecordingError                a recording is foreign or incomplete
|  `- RecordingDamaged           its files are not what was written
`- FormatError                   an input file is not in the format named

Messages name topic, partition, offset and a reason code, never an account's data.
"""

from __future__ import annotations

import errno
from typing import Final

from model.errors import BundleError as BundleError
from model.errors import DatasetError as DatasetError
from model.errors import DeviceFailed as DeviceFailed
from model.errors import DeviceMissing as DeviceMissing
from model.errors import FraudstreamError as FraudstreamError
from model.errors import OutputLost as OutputLost
from model.errors import OutputTaken as OutputTaken

NO_ROOM: Final = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "The quota is used up: free some space",
    errno.EFBIG: "Files may not become that large here: see `ulimit -f`",
}
"""What to do where a write finds no room, by the number of its OSError."""


class ConfigError(FraudstreamError):
    """A setting, flag or configuration file is wrong."""

    wrong_use = True


class ServiceError(FraudstreamError):
    """A local service could not be started, reached or stopped."""


class ToolMissing(ServiceError):
    """A program that the real Kafka needs is not on this machine, or too old."""


class BrokerError(FraudstreamError):
    """Kafka refused or lost something."""

    def __init__(
        self,
        message: str,
        *,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        remedy: str | None = None,
    ) -> None:
        where = [
            f"{name}={value}"
            for name, value in (("topic", topic), ("partition", partition), ("offset", offset))
            if value is not None
        ]
        super().__init__(f"{message} [{' '.join(where)}]" if where else message, remedy=remedy)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class StoreError(FraudstreamError):
    """The state store cannot be used."""


class StoreUnready(StoreError):
    """A check at start failed; the message says the remedy."""


class LogShort(StoreUnready):
    """The log ends before the state: its end is lost, or its broker does not know it yet."""


class StoreLost(StoreError):
    """No answer came; the call may have had effect. Repeat it as it was: that is safe."""


class StoreLoading(StoreLost):
    """Redis reads its file after a start, however long that takes; nothing was done."""


class PartitionError(StoreError):
    """A store error about one partition; -1: about none, or several."""

    def __init__(
        self, message: str, *, partition: int, offset: int | None = None, remedy: str | None = None
    ) -> None:
        where = [
            f"{name}={value}"
            for name, value in (("partition", partition), ("offset", offset))
            if value is not None and value >= 0
        ]
        super().__init__(f"{message} [{' '.join(where)}]" if where else message, remedy=remedy)
        self.partition = partition
        self.offset = offset


class Fenced(PartitionError):
    """A newer owner holds the partition: give it up, do not retry."""


class Conflict(PartitionError):
    """The stored offset or erasure count is not the one last seen: drop, reload, seek."""


class Overtaken(Conflict):
    """So by an operator's doing, an erasure or a rebuild: no sign of a fault."""


class StoreFull(PartitionError):
    """Redis is out of memory under `noeviction`: nothing was written; pause and retry."""


class RecordCorrupt(PartitionError):
    """An account record fails its checksum, length or version."""


class RecordingError(FraudstreamError):
    """A recording is foreign or incomplete."""


class RecordingDamaged(RecordingError):
    """Files of a recording are not what was written."""

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="Take it from a copy, or record it again")


class FormatError(FraudstreamError):
    """An input file is not in the format named."""
