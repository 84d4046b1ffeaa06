//! Whether the versions in a database's header were written by a program or came about by damage.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rusqlite::Connection;

/// Beside the version of its tables a database's header holds this number plus that version, so that a version that
/// changed by itself is told from a newer program's.
const MARK: i64 = 0x526f_7300;

/// SQLite's own versions, as its file format has them: for writing (byte 18) and reading (19) at most 2, of the schema
/// (44 to 47) at most 4. It takes a file with others for one that can't be written, or for no fault of the file.
pub(super) fn foreign(path: &Path) -> io::Result<Option<String>> {
    let mut header = [0; 48];
    match File::open(path)?.read_exact(&mut header) {
        Ok(()) if header.starts_with(b"SQLite format 3\0") => {
            let known = header[18..20].iter().all(|version| *version <= 2) && header[44..48] <= [0, 0, 0, 4][..];
            Ok((!known).then(|| "its file format is unknown".into()))
        }
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why the version can't be believed, if so; asked before the tables are brought up to date to version `known`.
pub(super) fn damage(connection: &Connection, known: usize) -> rusqlite::Result<Option<String>> {
    let (version, mark) = (pragma(connection, "user_version")?, pragma(connection, "application_id")?);
    let newer = version > i64::try_from(known).unwrap_or(i64::MAX);
    // The mark is written after the version: a crash can leave it behind, but never ahead.
    let unmarked = if newer { mark != MARK + version } else { mark > MARK + version };
    Ok((version < 0 || unmarked).then(|| format!("its version {version} has not the mark {mark}")))
}

/// Marks the version that it has now.
pub(super) fn mark(connection: &Connection) -> rusqlite::Result<()> {
    let wanted = MARK + pragma(connection, "user_version")?;
    if pragma(connection, "application_id")? == wanted {
        return Ok(());
    }
    connection.pragma_update(None, "application_id", wanted)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
