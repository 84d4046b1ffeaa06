# Reads a PNG of red, green, blue with nothing but Python's own zlib; prints width, height and how many values stand in its rows.
import struct
import sys
import zlib

data = open(sys.argv[1], "rb").read()
assert data[:8] == b"\x89PNG\r\n\x1a\n"
width, height = struct.unpack(">II", data[16:24])
packed, at = b"", 8
while at < len(data):
    (length,) = struct.unpack(">I", data[at : at + 4])
    kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
    assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
    packed += body if kind == b"IDAT" else b""
    at += 12 + length
rows = zlib.decompress(packed)
assert len(rows) == height * (1 + 3 * width)
print(width, height, len(set(rows)))
