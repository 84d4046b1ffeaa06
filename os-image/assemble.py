#!/usr/bin/env python3
"""Makes the image inside the folder of Debian packages that `build` prepared; it is the root directory here.

usage: assemble.py OUT VERSION quick|full
/recipe holds this folder (os-image), bin/ with our programs, and image.pub, the key whose images it takes; secure-boot/ with
db.key and db.crt where Secure Boot is wanted. Leaves in OUT: vmlinuz, initrd.img, usb.img, roost.iso, root.img, packages.txt,
sizes.txt; for Secure Boot roost.efi and usb-secure-boot.img. Everything is sorted and dated SOURCE_DATE_EPOCH: same packages,
same programs, same bytes, but for the signatures of Secure Boot, which say when they were made.
"""
import collections, fnmatch, glob, hashlib, json, os, re, shutil, stat, subprocess, sys

from common import EPOCH, RECIPE, date, lines, run, write
from media import disc, for_secure_boot, is_wanted, sign, stick

LIMIT = 100_000_000  # bytes of each thing that is shipped to be booted (R1)
LIBRARIES = ['usr/lib/x86_64-linux-gnu', 'usr/lib', 'usr/lib/x86_64-linux-gnu/systemd', 'usr/lib/systemd',
             'usr/lib/x86_64-linux-gnu/pulseaudio', 'usr/lib64']


# --- which files ------------------------------------------------------------------------------------------------------

def dynamic(path):
    """Libraries and interpreter that a program names; those it opens later, as far as it says so."""
    with open(path, 'rb') as file:
        if file.read(4) != b'\x7fELF':
            return [], []
        data = file.read()
    text = run('readelf', '-dlW', path, capture_output=True).stdout.decode(errors='replace')
    names = re.findall(r'\(NEEDED\).*\[(.*?)\]', text)
    where = [d for r in re.findall(r'\((?:RUNPATH|RPATH)\).*\[(.*?)\]', text) for d in r.split(':')]
    where = [d.replace('$ORIGIN', '/' + os.path.dirname(path)).lstrip('/') for d in where]
    needed = [(name, where) for name in names]
    for entry in re.findall(rb'\[\{"feature":.*?\}\]', data) if b'.note.dlopen' in data else []:
        needed += [(name, where) for wish in json.loads(entry) if wish.get('priority') in ('required', 'recommended')
                   for name in wish['soname']]
    return [i.lstrip('/') for i in re.findall(r'Requesting program interpreter: (.*?)\]', text)], \
        needed


class Picked:
    """Paths that go into the image, with all they need."""

    def __init__(self):
        self.seen, self.waiting, self.unmatched = set(), [], []
        patterns = lines('files')
        self.excluded = [p[1:] for p in patterns if p.startswith('!')]
        for pattern in (p for p in patterns if not p.startswith('!')):
            hits = glob.glob('/' + pattern, recursive=True, include_hidden=True)
            self.unmatched += [] if hits else [pattern]
            for hit in hits:
                self.add(hit.lstrip('/'))
        for program in os.listdir(f'{RECIPE}/bin'):
            self.libraries(f'{RECIPE}/bin/{program}'.lstrip('/'))
        while self.waiting:
            self.follow(self.waiting.pop())

    def add(self, path):
        folder = os.path.realpath('/' + os.path.dirname(path)).lstrip('/')
        path = os.path.normpath(os.path.join(folder, os.path.basename(path)))
        out = any(fnmatch.fnmatch(path, e) or path.startswith(e + '/') for e in self.excluded)
        if path not in self.seen and not out and os.path.lexists('/' + path):
            self.seen.add(path)
            self.waiting.append(path)

    def follow(self, path):
        full = '/' + path
        if os.path.islink(full):
            target = os.readlink(full)
            self.add(target.lstrip('/') if target.startswith('/') else os.path.join(os.path.dirname(path), target))
        elif os.path.isdir(full):
            for name in os.listdir(full):
                self.add(os.path.join(path, name))
        elif os.path.isfile(full):
            self.libraries(path)

    def libraries(self, path):
        interpreter, needed = dynamic('/' + path)
        for name in interpreter:
            self.add(name)
        for name, where in needed:
            for folder in where + LIBRARIES:
                if os.path.lexists(f'/{folder}/{name}'):
                    self.add(f'{folder}/{name}')
                    break


def module_closure(kernel, patterns):
    """Paths of modules below the kernel's folder, each after those it needs."""
    folder = f'/usr/lib/modules/{kernel}'
    needs, soft = {}, collections.defaultdict(list)
    with open(f'{folder}/modules.dep') as file:
        for line in file:
            path, rest = line.split(':', 1)
            needs[path] = rest.split()
    word = lambda path: os.path.basename(path).split('.ko')[0].replace('-', '_')
    by_name = {word(path): path for path in needs}
    with open(f'{folder}/modules.softdep') as file:
        for line in file:
            if found := re.match(r'softdep (\S+) (.*)', line):
                names = [n.replace('-', '_') for n in found[2].split() if not n.endswith(':')]
                soft[found[1].replace('-', '_')] += [by_name[n] for n in names if n in by_name]
    order = {}

    def take(path):
        if path not in order and path not in taking:
            taking.add(path)
            for other in needs[path] + soft[word(path)]:
                take(other)
            order[path] = None

    taking = set()
    for pattern in patterns:
        for path in sorted(needs):
            if fnmatch.fnmatch(word(path), pattern.replace('-', '_')):
                take(path)
    return list(order)


# --- the root file system ---------------------------------------------------------------------------------------------

def copy(path, root):
    source, target = '/' + path, f'{root}/{path}'
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target) and not os.path.isdir(target):
        return
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif os.path.isfile(source):
        shutil.copyfile(source, target)
    else:
        return
    told = os.stat(source)
    os.chown(target, told.st_uid, told.st_gid)
    os.chmod(target, stat.S_IMODE(told.st_mode))


def uncompressed_module(kernel, path, root):
    """One compression over all modules is better than one over each."""
    target = f'{root}/usr/lib/modules/{kernel}/{path.removesuffix(".xz")}'
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, 'wb') as file:
        run('xz', '-dc', f'/usr/lib/modules/{kernel}/{path}', stdout=file)


def populate(root, kernel, version):
    picked = Picked()
    for path in sorted(picked.seen):
        copy(path, root)
    for link in ('bin', 'sbin', 'lib', 'lib64'):
        os.symlink(f'usr/{link}', f'{root}/{link}')
    for path in module_closure(kernel, lines('modules')):
        uncompressed_module(kernel, path, root)
    for name in ('modules.order', 'modules.builtin', 'modules.builtin.modinfo'):
        copy(f'usr/lib/modules/{kernel}/{name}', root)
    order = f'{root}/usr/lib/modules/{kernel}/modules.order'
    with open(order) as file:
        text = file.read().replace('.ko.xz\n', '.ko\n')
    write(root, f'usr/lib/modules/{kernel}/modules.order', text)
    for path in lines('firmware'):
        copy(path, root)
        if os.path.islink('/' + path):
            copy(os.path.realpath('/' + path).lstrip('/'), root)
    for program in os.listdir(f'{RECIPE}/bin'):
        run('install', '-D', '-m', '755', f'{RECIPE}/bin/{program}', f'{root}/usr/bin/{program}')
        run('strip', f'{root}/usr/bin/{program}')
    shell(root)
    settle(root, version)
    run('depmod', '-b', root, kernel)
    run('ldconfig', '-r', root, '-X')
    shutil.rmtree(f'{root}/var/cache/ldconfig', ignore_errors=True)  # it keeps the inodes of this build
    if picked.unmatched:
        print('assemble: nothing matches', *picked.unmatched, file=sys.stderr)


def shell(root):
    """busybox for every command that nothing better was picked for."""
    copy('usr/bin/busybox', root)
    applets = run('/usr/bin/busybox', '--list', capture_output=True, text=True).stdout.split()
    for applet in applets:
        if not any(os.path.lexists(f'{root}/usr/{d}/{applet}') for d in ('bin', 'sbin')):
            os.symlink('busybox', f'{root}/usr/bin/{applet}')


def settle(root, version):
    """Folders, users, settings; which units are started."""
    for folder in ('proc', 'sys', 'dev', 'run', 'tmp', 'root', 'mnt', 'home', 'data', 'var/lib/roost', 'var/lib/libvirt',
                   'var/lib/roost-guard', 'var/cache/libvirt', 'var/log/libvirt/qemu', 'var/lib/dbus', 'var/tmp', 'etc/roost',
                   'var/lib/snmp', 'var/agentx', 'etc/libvirt/qemu'):
        os.makedirs(f'{root}/{folder}', exist_ok=True)
    os.chmod(f'{root}/tmp', 0o1777)
    os.chmod(f'{root}/var/tmp', 0o1777)
    os.chmod(f'{root}/root', 0o700)
    os.symlink('/run', f'{root}/var/run')
    shutil.rmtree(f'{root}/etc/systemd/system', ignore_errors=True)
    os.makedirs(f'{root}/etc/systemd/system')
    run('cp', '-r', '--no-preserve=ownership', f'{RECIPE}/root/.', root)
    for path in lines('units-left-out'):
        for hit in glob.glob(f'{root}/usr/lib/systemd/system/{path}'):
            shutil.rmtree(hit) if os.path.isdir(hit) and not os.path.islink(hit) else os.remove(hit)
    os.path.lexists(f'{root}/etc/resolv.conf') and os.remove(f'{root}/etc/resolv.conf')
    os.symlink('/run/systemd/resolve/stub-resolv.conf', f'{root}/etc/resolv.conf')
    write(root, 'etc/machine-id', '')
    write(root, 'etc/hostname', 'roost-host\n')
    write(root, 'etc/hosts', '127.0.0.1 localhost\n::1 localhost\n')
    write(root, 'etc/fstab', '')
    with open(f'{RECIPE}/image.pub') as file:
        write(root, 'usr/share/roost/image.pub', file.read())
    write(root, 'usr/share/roost/image-date', f'{EPOCH}\n')
    for name, change in (('passwd', (r'^root:.*$', 'root:x:0:0:root:/root:/bin/sh')), ('shadow', (r'^root:[^:]*:\d*:', 'root:!*:1:'))):
        with open(f'{root}/etc/{name}') as file:
            text = re.sub(*change, file.read(), flags=re.M)
        # The day a password was last set is the day of the build.
        text = re.sub(r'^([^:]*:[^:]*:)\d+:', r'\g<1>1:', text, flags=re.M) if name == 'shadow' else text
        write(root, f'etc/{name}', text, 0o640 if name == 'shadow' else 0o644)
    if os.path.islink(f'{root}/usr/lib/os-release') is False:
        with open(f'{root}/usr/lib/os-release', 'a') as file:
            file.write(f'IMAGE_ID=roost-host\nIMAGE_VERSION={version}\n')
    run('systemctl', f'--root={root}', 'preset-all', stderr=subprocess.DEVNULL)
    os.symlink('/usr/lib/systemd/system/multi-user.target', f'{root}/etc/systemd/system/default.target')
    for path in glob.glob(f'{root}/etc/*-'):
        os.remove(path)


# --- what is booted ---------------------------------------------------------------------------------------------------

def archive(folder, target, *compress):
    """A cpio archive of a folder, as the kernel unpacks it."""
    date(folder)
    names = sorted(os.path.relpath(f'{w}/{n}', folder) for w, ds, fs in os.walk(folder) for n in ds + fs)
    packed = run('cpio', '-o', '-H', 'newc', '--reproducible', '--owner=0:0', '--quiet', cwd=folder,
                 input='\n'.join(names).encode(), capture_output=True).stdout
    if compress:
        packed = run(*compress, input=packed, capture_output=True).stdout
    with open(target, 'ab') as file:
        file.write(packed + b'\0' * (-len(packed) % 4))


def initrd(out, kernel, level):
    """First a small archive that mounts the root image, then the root image as it is."""
    first = f'{out}/first'
    for folder in ('bin', 'modules', 'proc', 'sys', 'dev', 'run', 'sysroot', 'rw'):
        os.makedirs(f'{first}/{folder}')
    shutil.copyfile('/usr/bin/busybox', f'{first}/bin/busybox')
    os.chmod(f'{first}/bin/busybox', 0o755)
    shutil.copyfile(f'{RECIPE}/init', f'{first}/init')
    os.chmod(f'{first}/init', 0o755)
    with open(f'{out}/root.img', 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    write(first, 'root.sha256', f'{digest}  /root.img\n')
    order = module_closure(kernel, ['loop', 'squashfs', 'overlay'])
    for path in order:
        name = os.path.basename(path).removesuffix('.xz')
        with open(f'{first}/modules/{name}', 'wb') as file:
            run('xz', '-dc', f'/usr/lib/modules/{kernel}/{path}', stdout=file)
    write(first, 'modules/order', ''.join(os.path.basename(p).removesuffix('.xz') + '\n' for p in order))
    second = f'{out}/second'
    os.makedirs(second)
    os.rename(f'{out}/root.img', f'{second}/root.img')
    archive(first, f'{out}/initrd.img', 'zstd', f'-{level}', '-q', '-c')
    archive(second, f'{out}/initrd.img')
    os.rename(f'{second}/root.img', f'{out}/root.img')
    shutil.rmtree(first)
    shutil.rmtree(second)


# --- what is in it ----------------------------------------------------------------------------------------------------

PARTS = [('drivers', r'usr/lib/modules/'), ('firmware', r'usr/lib/firmware/'), ('Roost', r'usr/bin/roost-|etc/roost|usr/share/roost')]
PACKAGES = [('QEMU and what guests boot from', r'qemu|ovmf|seabios|ipxe|swtpm|virtiofsd|libspice|libopus|libslirp|libvirglrenderer|mesa|libepoxy|libgbm'),
            ('libvirt', r'libvirt'), ('SNMP', r'snmp|libsnmp'), ('systemd', r'systemd|libudev|udev|dbus')]


def owners():
    """Which package a path is of."""
    own = {}
    for name in os.listdir('/var/lib/dpkg/info'):
        if name.endswith('.list'):
            with open(f'/var/lib/dpkg/info/{name}') as file:
                for line in file:
                    path = re.sub(r'^/(bin|sbin|lib|lib64)/', r'/usr/\1/', line.strip()).lstrip('/')
                    own.setdefault(path, name[:-5].split(':')[0])
    return own


def account(root, out, kernel):
    """Writes which packages are in it, and how many bytes each part takes of what is booted."""
    own, files, used = owners(), collections.defaultdict(list), {'linux-image-' + kernel}
    for where, _, names in os.walk(root):
        for name in names:
            path = os.path.relpath(f'{where}/{name}', root)
            package = own.get(path, '')
            package and used.add(package)
            part = next((p for p, like in PARTS if re.match(like, path)), None)
            part = part or next((p for p, like in PACKAGES if re.search(like, package)), 'the rest')
            files[part].append(path)
    listed = run('dpkg-query', '-W', '-f', '${Package}\t${Version}\n', capture_output=True, text=True).stdout
    with open(f'{out}/packages.txt', 'w') as file:
        file.writelines(line + '\n' for line in sorted(listed.splitlines()) if line.split('\t')[0] in used)
    alone = {}
    for part, paths in sorted(files.items()):
        tar = subprocess.Popen(['tar', '-c', '-C', root, '--no-recursion', '-T', '-'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        packer = subprocess.Popen(['zstd', '-9', '-q', '-c', '-T1'], stdin=tar.stdout, stdout=subprocess.PIPE)
        tar.stdin.write('\n'.join(sorted(paths)).encode())
        tar.stdin.close()
        alone[part] = sum(len(piece) for piece in iter(lambda: packer.stdout.read(1 << 20), b''))
    image, total = os.path.getsize(f'{out}/root.img'), sum(alone.values())
    rows = [('kernel', os.path.getsize(f'{out}/vmlinuz'))]
    rows += [(part, bytes_ * image // total) for part, bytes_ in sorted(alone.items(), key=lambda item: -item[1])]
    whole = sum(os.path.getsize(f'{out}/{name}') for name in ('vmlinuz', 'initrd.img'))
    rows.append(('first stage (busybox, modules)', whole - sum(size for _, size in rows)))
    rows.append(('vmlinuz and initrd.img', whole))
    shipped = [(name, os.path.getsize(f'{out}/{name}')) for name in ('roost.iso', 'roost.efi') if os.path.exists(f'{out}/{name}')]
    with open(f'{out}/sizes.txt', 'w') as file:
        for part, size in rows + shipped:
            file.write(f'{part:<34}{size:>12,}\n')
    return max([whole] + [size for _, size in shipped])


def main(out, version, mode):
    kernel = os.listdir('/usr/lib/modules')[0]
    os.umask(0o022)
    os.makedirs(out)
    root = f'{out}/root'
    os.makedirs(root)
    populate(root, kernel, version)
    date(root)
    packing = {'quick': ['-comp', 'zstd', '-Xcompression-level', '3', '-b', '256K'],
               'full': ['-comp', 'xz', '-Xbcj', 'x86', '-b', '1M']}[mode]
    run('mksquashfs', root, f'{out}/root.img', *packing, '-noappend', '-no-progress', '-quiet', '-no-xattrs', '-reproducible')
    shutil.copyfile(f'/boot/vmlinuz-{kernel}', f'{out}/vmlinuz')
    secure = is_wanted()
    if secure:
        # An image that an update brings is started by a kernel that knows firmware's keys, and looks at one signature.
        run('sbattach', '--remove', f'{out}/vmlinuz')
        sign(f'{out}/vmlinuz')
    initrd(out, kernel, 3 if mode == 'quick' else 19)
    stick(out, version)
    disc(out, version)
    if secure:
        for_secure_boot(out, kernel, version)
    whole = account(root, out, kernel)
    shutil.rmtree(root)
    if mode == 'full' and whole >= LIMIT:
        sys.exit(f'assemble: {whole} bytes are shipped, the limit is {LIMIT}')


main(*sys.argv[1:])
