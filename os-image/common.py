"""What making the image and making media of it share. `/` is the folder of packages."""
import os, subprocess

RECIPE = '/recipe'
EPOCH = int(os.environ['SOURCE_DATE_EPOCH'])


def run(*command, **options):
    return subprocess.run(command, check=True, **options)


def lines(name):
    """The words of a list in our folder, without comments."""
    with open(f'{RECIPE}/{name}') as file:
        return [line for line in (line.split('#')[0].strip() for line in file) if line]


def write(root, path, text, mode=0o644):
    os.makedirs(os.path.dirname(f'{root}/{path}'), exist_ok=True)
    if os.path.lexists(f'{root}/{path}'):
        os.remove(f'{root}/{path}')
    with open(f'{root}/{path}', 'w') as file:
        file.write(text)
    os.chmod(f'{root}/{path}', mode)


def date(folder):
    """The same time on everything below."""
    for where, folders, files in os.walk(folder):
        for name in folders + files:
            os.utime(f'{where}/{name}', (EPOCH, EPOCH), follow_symlinks=False)
    os.utime(folder, (EPOCH, EPOCH))
