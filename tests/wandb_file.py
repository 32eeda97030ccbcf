"""What W&B wrote offline, decoded: its file is a log in LevelDB's form of the records of its protocol."""

import struct
import time
from pathlib import Path

HEAD, BLOCK = 7, 32768  # bytes before the first block, and of a block
LAST = (1, 4)  # kinds of pieces that end a record: whole ones and last ones
PATIENCE = 20  # seconds until W&B's own process has written the end of a file


def wandb_records(folder: Path):
    """The records of all finished runs in a run folder, the earlier file first."""
    records = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda one: one.parent.name):
        deadline = time.monotonic() + PATIENCE
        own = list(_records(path.read_bytes()))
        while not any(record.HasField("exit") for record in own):
            assert time.monotonic() < deadline, f"{path} was not finished"
            time.sleep(0.05)
            own = list(_records(path.read_bytes()))
        records += own
    return records


def _records(content: bytes):
    from wandb.proto.wandb_internal_pb2 import Record

    place, record = HEAD, b""
    while place + HEAD <= len(content):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEAD])
        record += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in LAST:
            if place > len(content):
                return  # not yet written to its end
            yield Record.FromString(record)
            record = b""
