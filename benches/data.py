#!/usr/bin/env python3
"""Makes the data set of bench-backup and bench-store: FOLDER/v1.raw, a disk of 4 GiB with a file system, and FOLDER/v2.raw,
the same after a working day. Does nothing where both are there.

    benches/data.py FOLDER

The disk holds this machine's own programs and libraries (1,900 MiB), what does not compress (media, 250 MiB) and what half
compresses (a database, 256 MiB). The day: 5,000 pages of the database rewritten in place, 1,400 small files that do not compress
(caches, mail), a log, and 24 MiB of libraries in new versions. Blocks that differ in the end are counted and printed.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

BLOCK = 4096
MIB = 1 << 20
PROGRAMS = 1900 * MIB
LARGEST = 64 * MIB
TREES = ["/usr/bin", "/usr/lib", "/usr/share"]
REPLACED = 24 * MIB


def programs(to: Path) -> list[str]:
    """Copies programs and libraries; what was copied, as paths on the disk."""
    copied, total = [], 0
    for tree in TREES:
        # Each tree gets a share, so that all kinds of files are there.
        until = total + PROGRAMS // len(TREES)
        for folder, folders, names in os.walk(tree):
            folders.sort()
            for name in sorted(names):
                file = Path(folder, name)
                if file.is_symlink() or not file.is_file() or file.stat().st_size > LARGEST:
                    continue
                if total >= until:
                    break
                place = to / file.relative_to("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
                total += file.stat().st_size
                copied.append("/" + str(file.relative_to("/")))
    return copied


def page(chance: random.Random) -> bytes:
    """Half of it compresses."""
    rows = b"".join(b"%08d row of the table;" % chance.randrange(10**8) for _ in range(80))
    return chance.randbytes(BLOCK // 2) + rows[: BLOCK // 2].ljust(BLOCK // 2, b"\0")


def debugfs(disk: Path, commands: list[str]) -> None:
    script = disk.parent / "day"
    script.write_text("\n".join(commands) + "\n")
    told = subprocess.run(["debugfs", "-w", "-f", script, disk], capture_output=True, text=True, check=True)
    wrong = [line for line in told.stderr.splitlines() if not line.startswith("debugfs ")]
    if wrong:
        sys.exit(f"data.py: debugfs on {disk}: {wrong[0]}\n  try: e2fsprogs of Debian 12 or newer")
    script.unlink()


def blocks_of(disk: Path, file: str) -> list[int]:
    told = subprocess.run(["debugfs", "-R", f"blocks {file}", disk], capture_output=True, text=True, check=True)
    return [int(number) for number in told.stdout.split()]


def make_before(disk: Path, files: Path, chance: random.Random) -> list[str]:
    copied = programs(files)
    user = files / "user"
    user.mkdir()
    with open(user / "database", "wb") as out:
        for _ in range(256 * MIB // BLOCK):
            out.write(page(chance))
    with open(user / "media", "wb") as out:
        for _ in range(250):
            out.write(chance.randbytes(MIB))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-U", "6f6f7374-0000-4000-8000-000000000001",
                    "-d", files, disk, "4G"], check=True)
    return copied


def make_after(disk: Path, day: Path, copied: list[str], chance: random.Random) -> None:
    commands = ["mkdir /user/caches"]
    for number in range(1400):
        file = day / f"cache-{number}"
        file.write_bytes(chance.randbytes(chance.randrange(8, 72) * 1024))
        commands.append(f"write {file} /user/caches/{number}")
    log = day / "log"
    log.write_text("".join(f"2026-01-01T08:00:{n % 60:02d} daemon[{chance.randrange(9999)}]: request {n} done\n" for n in range(120_000)))
    commands.append(f"write {log} /user/log")
    replaced = 0
    for number, file in enumerate(chance.sample(copied, len(copied))):
        size = Path(file).stat().st_size
        if " " in file or '"' in file or not 64 * 1024 < size < 4 * MIB:
            continue
        new = day / f"new-{number}"
        old = bytearray(Path(file).read_bytes())
        # A new version differs a little everywhere.
        for place in range(0, size, 512):
            old[place] ^= 1 + chance.randrange(255)
        new.write_bytes(old)
        commands += [f"rm {file}", f"write {new} {file}"]
        replaced += size
        if replaced >= REPLACED:
            break
    debugfs(disk, commands)
    pages = chance.sample(blocks_of(disk, "/user/database"), 5000)
    with open(disk, "r+b") as out:
        for number in pages:
            out.seek(number * BLOCK)
            out.write(page(chance))


def compare(one: Path, other: Path) -> None:
    held = differ = 0
    with open(one, "rb") as before, open(other, "rb") as after:
        while chunk := before.read(MIB):
            now = after.read(MIB)
            for at in range(0, MIB, BLOCK):
                held += any(now[at:at + 64]) or now[at:at + BLOCK] != bytes(BLOCK)
                if chunk != now:
                    differ += chunk[at:at + BLOCK] != now[at:at + BLOCK]
    print(f"data set: {held * BLOCK // MIB} MiB not zero; the day changed {differ * BLOCK / MIB:.0f} MiB in blocks of 4 KiB")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("data.py: where to?\n  try: benches/data.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    before, after = folder / "v1.raw", folder / "v2.raw"
    if before.exists() and after.exists():
        return
    files, day, half = folder / "files", folder / "files-of-the-day", folder / "half-made"
    chance = random.Random(4096)
    for left in (files, day):
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir()
    copied = make_before(before, files, chance)
    subprocess.run(["cp", "--sparse=always", before, half], check=True)
    make_after(half, day, copied, chance)
    half.rename(after)
    shutil.rmtree(files)
    shutil.rmtree(day)
    compare(before, after)


if __name__ == "__main__":
    main()
