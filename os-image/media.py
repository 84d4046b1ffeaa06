"""What an image is started from: a stick, a disc, and both for Secure Boot with the user's key."""
import glob, os, shutil, struct, subprocess, time

from common import EPOCH, RECIPE, date, run, write

ESP_MIB = 190  # two versions of the files fit
SIGNER = f'{RECIPE}/secure-boot/db'  # .key and .crt, where Secure Boot is wanted
LOADER = '/usr/lib/systemd/boot/efi/systemd-bootx64.efi'
OWNER = '5c3b6a4c-0000-4000-8000-000000000004'  # of the key that is enrolled
CONSOLE = 'console=tty0 console=ttyS0,115200'
RESCUE = CONSOLE + ' rescue SYSTEMD_SULOGIN_FORCE=1'


def grub_entries(version):
    """What GRUB offers, on a stick and on a disc."""
    text = 'set timeout=3\nserial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\n'
    for title, parameters in (('Roost host', CONSOLE), ('Roost host, rescue shell', RESCUE)):
        text += f'menuentry "{title} {version}" {{\n  linux /roost/{version}/vmlinuz {parameters}\n' \
                f'  initrd /roost/{version}/initrd.img\n}}\n'
    return text


def two_files(out, tree, version):
    """What is started, and where it finds its answers."""
    os.makedirs(f'{tree}/roost/{version}')
    for name in ('vmlinuz', 'initrd.img'):
        shutil.copyfile(f'{out}/{name}', f'{tree}/roost/{version}/{name}')
    shutil.copyfile(f'{RECIPE}/roost.conf', f'{tree}/roost.conf')


def stick(out, version):
    """A disk image that starts by UEFI (systemd-boot) and by BIOS (GRUB); both start the same two files."""
    tree, disk = f'{out}/esp', f'{out}/usb.img'
    for folder in ('EFI/BOOT', 'loader/entries', 'grub'):
        os.makedirs(f'{tree}/{folder}')
    shutil.copyfile(LOADER, f'{tree}/EFI/BOOT/BOOTX64.EFI')
    write(tree, 'loader/loader.conf', 'timeout 3\ndefault roost.conf\neditor no\n')
    for name, title, parameters in (('roost', 'Roost host', CONSOLE), ('rescue', 'Roost host, rescue shell', RESCUE)):
        write(tree, f'loader/entries/{name}.conf', f'title {title} {version}\nversion {version}\nlinux /roost/{version}/vmlinuz\n'
              f'initrd /roost/{version}/initrd.img\noptions {parameters}\n')
    write(tree, 'grub/grub.cfg', grub_entries(version))
    two_files(out, tree, version)
    partitioned(tree, disk)
    bios(out, disk)


def partitioned(tree, disk):
    """A disk image with room for GRUB and one partition that any system can open; the tree is gone then."""
    date(tree)
    boot = f'{disk}.boot'
    with open(boot, 'wb') as file:
        file.truncate(ESP_MIB << 20)
    run('mkfs.vfat', '-F32', '-n', 'ROOST-BOOT', '-i', '20260101', '--invariant', boot, stdout=subprocess.DEVNULL)
    run('mcopy', '-s', '-p', '-m', '-i', boot, *sorted(glob.glob(f'{tree}/*')), '::')
    with open(disk, 'wb') as file:
        file.truncate((ESP_MIB + 4) << 20)
    table = f'label: gpt\nlabel-id: 5C3B6A4C-0000-4000-8000-000000000001\n' \
            f'start=1MiB,size=1MiB,type=21686148-6449-6E6F-744E-656564454649,name=bios,uuid=5C3B6A4C-0000-4000-8000-000000000002\n' \
            f'start=2MiB,size={ESP_MIB}MiB,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=ROOST-BOOT,' \
            f'uuid=5C3B6A4C-0000-4000-8000-000000000003\n'
    run('sfdisk', '-q', '--no-reread', '--no-tell-kernel', disk, input=table.encode())
    run('dd', f'if={boot}', f'of={disk}', 'bs=1M', 'seek=2', 'conv=notrunc,sparse', 'status=none')
    os.remove(boot)
    shutil.rmtree(tree)


def disc(out, version):
    """A hybrid ISO image, for virtual media: starts by BIOS and UEFI, as a disc and as a disk."""
    tree = f'{out}/disc'
    write(tree, 'boot/grub/grub.cfg', grub_entries(version))
    two_files(out, tree, version)
    date(tree)
    day = time.strftime('%Y%m%d%H%M%S00', time.gmtime(EPOCH))
    modules = 'iso9660 part_gpt part_msdos fat normal linux search configfile serial terminal all_video gzio'
    run('grub-mkrescue', '-o', f'{out}/roost.iso', '--compress=xz', '--fonts=', '--locales=', '--themes=',
        f'--install-modules={modules}', tree, '--', '-volid', 'ROOST-HOST', '-volume_date', 'uuid', day, stderr=subprocess.DEVNULL)
    shutil.rmtree(tree)


def is_wanted():
    """Whether there is a key for Secure Boot."""
    return os.path.exists(f'{SIGNER}.key')


def sign(path):
    """By the user's key for Secure Boot."""
    run('sbsign', '--key', f'{SIGNER}.key', '--cert', f'{SIGNER}.crt', '--output', path, path, stderr=subprocess.DEVNULL)


def for_secure_boot(out, kernel, version):
    """roost.efi, one file with all that is started, its parameters too, and a stick with it; signed by the user's key.

    The stick brings the key for firmware in setup mode: systemd-boot offers to enrol it, and does so by itself in a VM.
    """
    tree, rescue, unified = f'{out}/esp', f'{out}/rescue.efi', f'{out}/roost.efi'
    for folder in ('EFI/BOOT', 'EFI/Linux', 'loader/keys/auto'):
        os.makedirs(f'{tree}/{folder}')
    profile = lambda name, title: f'--profile=ID={name}\nTITLE={title}'
    run('ukify', 'build', profile('rescue', 'rescue shell'), f'--cmdline={RESCUE}', f'--output={rescue}')
    run('ukify', 'build', f'--linux={out}/vmlinuz', f'--initrd={out}/initrd.img', profile('main', 'host'),
        f'--cmdline={CONSOLE}', f'--join-profile={rescue}', f'--uname={kernel}', f'--output={unified}',
        f'--os-release=ID=roost\nPRETTY_NAME="Roost {version}"\nVERSION_ID={version}\n')
    os.remove(rescue)
    sign(unified)
    shutil.copyfile(unified, f'{tree}/EFI/Linux/roost-{version}.efi')
    shutil.copyfile(LOADER, f'{tree}/EFI/BOOT/BOOTX64.EFI')
    sign(f'{tree}/EFI/BOOT/BOOTX64.EFI')
    write(tree, 'loader/loader.conf', 'timeout 3\neditor no\nsecure-boot-enroll if-safe\n')
    # Not sbvarsign: firmware refuses what it makes of PK.
    run('cert-to-efi-sig-list', '-g', OWNER, f'{SIGNER}.crt', f'{out}/db.esl')
    for variable in ('PK', 'KEK', 'db'):
        run('sign-efi-sig-list', '-k', f'{SIGNER}.key', '-c', f'{SIGNER}.crt', variable, f'{out}/db.esl',
            f'{tree}/loader/keys/auto/{variable}.auth', stdout=subprocess.DEVNULL)
    os.remove(f'{out}/db.esl')
    shutil.copyfile(f'{RECIPE}/roost.conf', f'{tree}/roost.conf')
    partitioned(tree, f'{out}/usb-secure-boot.img')


def bios(out, disk):
    """What grub-bios-setup would write, without a block device."""
    write(out, 'embed.cfg', 'search --label ROOST-BOOT --set root\nconfigfile ($root)/grub/grub.cfg\n')
    run('grub-mkimage', '-O', 'i386-pc', '-p', '/grub', '-c', f'{out}/embed.cfg', '-o', f'{out}/core.img', 'biosdisk', 'part_gpt',
        'fat', 'normal', 'linux', 'search', 'search_label', 'configfile', 'echo', 'test', 'serial', 'terminal', 'all_video')
    start = 2048  # the sector of the first partition
    with open(f'{out}/core.img', 'rb') as file:
        core = bytearray(file.read())
    core += b'\0' * (-len(core) % 512)
    struct.pack_into('<QHH', core, 0x1f4, start + 1, len(core) // 512 - 1, 0x820)
    with open('/usr/lib/grub/i386-pc/boot.img', 'rb') as file:
        first = bytearray(file.read(440))
    struct.pack_into('<Q', first, 0x5c, start)
    first[0x66:0x68] = b'\x90\x90'  # hard disks: the BIOS' drive number is believed
    with open(disk, 'r+b') as file:
        file.write(first)
        file.seek(start * 512)
        file.write(core)
    os.remove(f'{out}/embed.cfg')
    os.remove(f'{out}/core.img')
