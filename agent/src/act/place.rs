//! Where files of guests lie, and the one door to images. Ids, never names, are part of paths.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use super::{failure, io_failure};
use crate::files;

/// Lies in a guest's folder while it is being made or removed.
const UNFINISHED: &str = "unfinished";
/// QEMU's user walks through it, nobody lists it.
const FOLDER_MODE: u32 = 0o711;

/// The two folders.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    images: PathBuf,
    guests: PathBuf,
}

impl Place {
    /// Makes the folders where they are missing.
    pub(crate) fn open(images: &Path, guests: &Path) -> io::Result<Self> {
        files::make_folder(guests, FOLDER_MODE)?;
        fs::create_dir_all(images)?;
        Ok(Self { images: images.canonicalize()?, guests: guests.canonicalize()? })
    }

    /// The folder of one guest.
    pub(crate) fn guest(&self, guest: GuestId) -> PathBuf {
        self.guests.join(guest.to_string())
    }

    /// Makes a guest's folder, marked as unfinished.
    pub(crate) fn begin(&self, guest: GuestId) -> Result<PathBuf, Failure> {
        let folder = self.guest(guest);
        if folder.join(UNFINISHED).exists() {
            self.remove(guest)?;
        }
        match DirBuilder::new().mode(FOLDER_MODE).create(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let text = format!("{} is there already (disks kept of a deleted guest?)", folder.display());
                return Err(failure(FailureCode::AlreadyExists, text));
            }
            Err(error) => return Err(io_failure(format!("make {}", folder.display()), &error)),
        }
        self.mark(guest)?;
        Ok(folder)
    }

    /// From here on the folder is a whole guest's.
    pub(crate) fn finish(&self, guest: GuestId) -> io::Result<()> {
        let folder = self.guest(guest);
        match fs::remove_file(folder.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => files::sync_folder(&folder),
        }
    }

    /// Marks the folder as one to be removed.
    pub(crate) fn mark(&self, guest: GuestId) -> Result<(), Failure> {
        let folder = self.guest(guest);
        let path = folder.join(UNFINISHED);
        let made = File::create(&path).and_then(|file| file.sync_all());
        let made = made.and_then(|()| files::sync_folder(&folder)).and_then(|()| files::sync_folder(&self.guests));
        made.map_err(|error| io_failure(format!("write {}", path.display()), &error))
    }

    /// Whether the folder is one that nothing was finished in.
    pub(crate) fn unfinished(&self, guest: GuestId) -> bool {
        self.guest(guest).join(UNFINISHED).exists()
    }

    /// Removes a guest's folder; none is no error. A symbolic link in its place is not followed.
    pub(crate) fn remove(&self, guest: GuestId) -> Result<(), Failure> {
        let folder = self.guest(guest);
        match remove_mark_last(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_failure(format!("remove {}", folder.display()), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A file for writing in a guest's folder, new.
    pub(crate) fn make_file(path: &Path) -> Result<File, Failure> {
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        made.map_err(|error| io_failure(format!("make {}", path.display()), &error))
    }

    /// An image, for reading; nothing outside the image folder is ever opened, whatever links lie in it.
    pub(crate) fn image(&self, relative: &str) -> Result<File, Failure> {
        beneath(&self.images, Path::new(relative)).map_err(|error| refuse_image(relative, &error))
    }

    /// The file an imported definition names: in the image folder, or in the guest's own.
    pub(crate) fn imported(&self, guest: GuestId, path: &str) -> Result<(File, PathBuf), Failure> {
        let named = Path::new(path);
        let folders = [self.images.clone(), self.guest(guest)];
        let (folder, relative) =
            match folders.iter().find_map(|folder| Some((folder, named.strip_prefix(folder).ok()?))) {
                Some(found) => found,
                None if named.is_relative() => (&self.images, named),
                None => {
                    let text = format!("disk {path:?} lies outside the host's image folder {}", self.images.display());
                    return Err(failure(FailureCode::Invalid, text));
                }
            };
        let file = beneath(folder, relative).map_err(|error| refuse_image(path, &error))?;
        let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let real = real.map_err(|error| io_failure(format!("find {path:?}"), &error))?;
        match real.starts_with(folder) {
            true => Ok((file, real)),
            false => Err(failure(FailureCode::Invalid, format!("disk {path:?} leads out of {}", folder.display()))),
        }
    }
}

/// The mark goes last: cut off in the middle, what is left is still known for something to be removed.
fn remove_mark_last(folder: &Path) -> io::Result<()> {
    if fs::symlink_metadata(folder)?.is_dir() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name() == UNFINISHED {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
    }
    fs::remove_dir_all(folder)
}

fn refuse_image(path: &str, error: &io::Error) -> Failure {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let code = if missing { FailureCode::NotFound } else { FailureCode::Invalid };
    failure(code, format!("open image {path:?}: {error}"))
}

fn beneath(folder: &Path, relative: &Path) -> io::Result<File> {
    let folder_fd = File::open(folder)?;
    // Not blocking: a named pipe in the folder must not hang a worker.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&folder_fd, relative, how) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOSYS) => beneath_by_name(folder, relative)?,
        Err(Errno::EXDEV) => return Err(io::Error::other("the path leads out of its folder")),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// For kernels before 5.6.
fn beneath_by_name(folder: &Path, relative: &Path) -> io::Result<File> {
    let real = folder.join(relative).canonicalize()?;
    if !real.starts_with(folder) {
        return Err(io::Error::other("the path leads out of its folder"));
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(real)
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(&dir.path().join("images"), &dir.path().join("guests")).unwrap();
        fs::write(place.images.join("a.raw"), "a").unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        (dir, place)
    }

    #[test]
    fn no_path_leads_out_of_the_image_folder() {
        let (dir, place) = place();
        symlink("../secret", place.images.join("out")).unwrap();
        symlink("/etc", place.images.join("etc")).unwrap();
        symlink("a.raw", place.images.join("inside")).unwrap();
        nix::unistd::mkfifo(&place.images.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(place.image("a.raw").is_ok() && place.image("inside").is_ok());
        let secret = dir.path().join("secret").display().to_string();
        for bad in
            ["../secret", "out", "etc/passwd", "/etc/passwd", "a.raw/..", "", ".", "pipe", "/proc/self/fd/0", &secret]
        {
            assert!(place.image(bad).is_err(), "{bad}");
        }
        assert_eq!(place.image("none").unwrap_err().code, FailureCode::NotFound);
        assert!(beneath_by_name(&place.images, Path::new("out")).is_err());
        assert!(beneath_by_name(&place.images, Path::new("inside")).is_ok());
    }

    #[test]
    fn an_imported_disk_lies_in_the_image_folder_or_in_the_guests_own() {
        let (dir, place) = place();
        let (guest, other) = (GuestId::from_u128(1), GuestId::from_u128(2));
        for owner in [guest, other] {
            fs::write(place.begin(owner).unwrap().join("vda.raw"), "d").unwrap();
        }
        let at = |path: &Path| place.imported(guest, &path.display().to_string()).map(|(_, path)| path);
        assert_eq!(at(Path::new("a.raw")).unwrap(), place.images.join("a.raw"));
        assert!(at(&place.images.join("a.raw")).is_ok());
        assert!(at(&place.guest(guest).join("vda.raw")).is_ok());
        for bad in [place.guest(other).join("vda.raw"), dir.path().join("secret"), place.images.join("../secret")] {
            assert_eq!(at(&bad).unwrap_err().code, FailureCode::Invalid, "{}", bad.display());
        }
    }

    #[test]
    fn an_unfinished_folder_is_begun_anew_and_a_finished_one_is_kept() {
        let (_dir, place) = place();
        let guest = GuestId::from_u128(1);
        fs::write(place.begin(guest).unwrap().join("half"), "h").unwrap();
        assert!(!place.begin(guest).unwrap().join("half").exists());
        place.finish(guest).unwrap();
        assert_eq!(place.begin(guest).unwrap_err().code, FailureCode::AlreadyExists);
        place.remove(guest).unwrap();
        place.remove(guest).unwrap();
    }

    #[test]
    fn a_folder_goes_with_all_in_it_and_a_link_in_its_place_without_what_it_leads_to() {
        let (dir, place) = place();
        let guest = GuestId::from_u128(1);
        let folder = place.begin(guest).unwrap();
        fs::create_dir(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/vda"), "d").unwrap();
        place.remove(guest).unwrap();
        assert!(!folder.exists());
        symlink(dir.path(), &folder).unwrap();
        place.remove(guest).unwrap();
        assert!(!folder.is_symlink() && dir.path().join("secret").exists());
    }
}
