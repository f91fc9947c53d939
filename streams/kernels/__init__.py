"""What the Numba pass of `streams/windows.py` is made of: functions of arrays, nothing else.

record   layout, checksum, 128-bit sums        ring     the last 64 events in time order
walk     the windows, from newest to oldest    panes    what is kept of events behind the ring
traits   features that are not windows         update   an event enters its account's record
pack     records to and from bytes
"""
