#!/usr/bin/env bash
# Who may do what on Kafka: the least rights with which each part of the service works.
# tests/test_acls.py runs this script, gives the broker what it says, and tries it with right and
# wrong principals.
#
#   BOOTSTRAP=broker-1:9093 ADMIN=admin.properties infra/kafka/acls.sh
#
# ADMIN is the client configuration of somebody who may set ACLs. With other names of users, another
# kafka.topic_prefix or another kafka.group, set the variables below. The broker needs
#   authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# and no allow.everyone.if.no.acl.found=true.
set -euo pipefail

KAFKA_ACLS=${KAFKA_ACLS:-kafka-acls.sh}
PREFIX=${PREFIX:-}
GROUP=${GROUP:-fraudstream}
WORKER=${WORKER:-fraudstream}
PUBLISHER=${PUBLISHER:-publisher}
SUBSCRIBER=${SUBSCRIBER:-subscriber}
ANALYST=${ANALYST:-analyst}
OPERATOR=${OPERATOR:-operator}
OWNER=${OWNER:-owner}

allow() {
  local user=$1
  shift
  "$KAFKA_ACLS" --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN" \
    --add --allow-principal "User:$user" "$@"
}

read=(--operation Read --operation Describe)
write=(--operation Write --operation Describe)
all=()
for name in transactions scores alerts labels transactions.dlq rules; do
  all+=(--topic "$PREFIX$name")
done

# `fraudstream worker`.
allow "$WORKER" "${read[@]}" --topic "${PREFIX}transactions" --topic "${PREFIX}labels" --topic "${PREFIX}rules"
allow "$WORKER" "${write[@]}" --topic "${PREFIX}scores" --topic "${PREFIX}alerts" --topic "${PREFIX}transactions.dlq"
allow "$WORKER" "${read[@]}" --group "$GROUP" --resource-pattern-type prefixed

# Systems that publish transactions and labels. They may erase accounts, too: a tombstone is a message.
allow "$PUBLISHER" "${write[@]}" --topic "${PREFIX}transactions" --topic "${PREFIX}labels"

# Systems and people that read results. A reader without a group of its own has one that begins with
# `fraudstream-reader-`, in which it commits nothing; groups of readers here begin with `alerts-`.
allow "$SUBSCRIBER" "${read[@]}" --topic "${PREFIX}scores" --topic "${PREFIX}alerts"
allow "$SUBSCRIBER" --operation Describe --group fraudstream-reader- --resource-pattern-type prefixed
allow "$SUBSCRIBER" "${read[@]}" --group alerts- --resource-pattern-type prefixed

# `alerts`, `scores` and `label`: people who look at results and say what they were.
allow "$ANALYST" "${read[@]}" --topic "${PREFIX}scores" --topic "${PREFIX}alerts" --topic "${PREFIX}labels"
allow "$ANALYST" --operation Write --topic "${PREFIX}labels"
allow "$ANALYST" --operation Describe --group fraudstream-reader- --resource-pattern-type prefixed

# `status`, `audit`, `record`, `verify`, `rebuild`; `forget` and `dlq republish`; rules and lists.
allow "$OPERATOR" "${read[@]}" "${all[@]}"
allow "$OPERATOR" --operation Write --topic "${PREFIX}transactions" --topic "${PREFIX}rules"
allow "$OPERATOR" --operation Describe --group "$GROUP" --group fraudstream- --resource-pattern-type prefixed

# `topics create`: makes and configures topics, and reads no message of them.
allow "$OWNER" --operation Create --operation Describe --operation DescribeConfigs --operation AlterConfigs "${all[@]}"
