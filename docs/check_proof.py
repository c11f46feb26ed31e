"""Checks, without a database, that a movement is in a digest: python3 check_proof.py digest.json < proof.json"""

import hashlib
import json
import sys

NAMES = "movement_id inventory_id stripe kind old_quantity new_quantity reference idempotency_key actor xact_id "
NAMES += "microseconds_since_2000"


def fields(what, *values):
    values = [value.encode() if isinstance(value, str) else value for value in values]
    data = [b"\xff" * 4 if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return hashlib.sha256(bytes([what]) + b"".join(data)).digest()


def climb(hash, steps):
    for [(side, other)] in map(dict.items, steps):
        beside = {"left": bytes.fromhex(other) + hash, "right": hash + bytes.fromhex(other)}
        hash = hashlib.sha256(b"\x01" + beside[side]).digest()
    return hash


try:
    with open(sys.argv[1], "rb") as file:
        digest, proof = json.load(file), json.load(sys.stdin.buffer)
    segment, seal, hashes = proof["segment"], proof["seal"], {}
    root = climb(fields(0, *proof["movement"]), proof["steps_in_segment"])
    head = fields(2, *segment["fields"], bytes.fromhex(segment["previous"]), root, bytes.fromhex(segment["numbers"]))
    hash, root = bytes.fromhex(seal["previous"]), climb(head, proof["steps_in_seal"])
    for seal in [{**seal, "root": root.hex()}, *proof["later_seals"]]:
        numbers = [str(seal[name]) for name in ("number", "movements", "time")]
        hash = hashes[seal["number"]] = fields(3, *numbers, hash, bytes.fromhex(seal["root"]))
    if hash.hex() != proof["hash"]:
        sys.exit("not proved: the proof does not lead to its hash")
    if digest["seal"] not in hashes or hashes[digest["seal"]].hex() != digest["hash"]:
        sys.exit("not proved: the proof does not lead to the digest")
except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
    sys.exit(f"not proved: {error!r}")
print(*(f"{name}: {json.dumps(value)}" for name, value in zip(NAMES.split(), proof["movement"])), sep="\n")
