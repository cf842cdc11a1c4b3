//! Why a request is not carried out, from `errno` to the wire.

use std::io;

use caisson_wire::{Refusal, RefusalCode, path};
use rustix::io::Errno;

/// A refusal with this code and sentence.
pub(crate) fn refuse(code: RefusalCode, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// The same for an error number.
pub(crate) fn of_errno(error: Errno, name: &[u8]) -> Refusal {
    of_path(&error.into(), name)
}

/// A refusal for a failed operation on a path.
pub(crate) fn of_path(error: &io::Error, name: &[u8]) -> Refusal {
    let shown = path::encode(name);
    let (code, what) = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => (RefusalCode::NotFound, "does not exist"),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => (RefusalCode::PermissionDenied, "may not be accessed by the sandbox's user"),
        Some(Errno::NOTDIR) => (RefusalCode::NotADirectory, "leads through something that is not a directory"),
        Some(Errno::ISDIR) => (RefusalCode::IsADirectory, "is a directory"),
        Some(Errno::EXIST) => (RefusalCode::AlreadyExists, "is there already"),
        Some(Errno::NOTEMPTY) => (RefusalCode::DirectoryNotEmpty, "is a directory that is not empty; delete it recursively"),
        Some(Errno::NOSPC | Errno::DQUOT) => (RefusalCode::NoSpace, "does not fit: the disk limit of the sandbox is reached"),
        Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN) => {
            (RefusalCode::Exhausted, "needs more than the sandbox's limits allow")
        }
        Some(Errno::BUSY) => (
            RefusalCode::Failed,
            "is in use: something is mounted there, and only what is in it can be moved or removed; or it is being changed just now",
        ),
        Some(Errno::NAMETOOLONG | Errno::INVAL | Errno::LOOP) => (RefusalCode::Invalid, "is not a usable path"),
        _ => return refuse(RefusalCode::Failed, format!("`{shown}`: {error}")),
    };
    refuse(code, format!("`{shown}` {what}"))
}

/// The HTTP status that goes with a code.
pub(crate) fn status(code: RefusalCode) -> http::StatusCode {
    use http::StatusCode;
    match code {
        RefusalCode::Invalid | RefusalCode::InvalidArchive | RefusalCode::InvalidPattern => StatusCode::BAD_REQUEST,
        RefusalCode::NotFound | RefusalCode::ProgramNotFound => StatusCode::NOT_FOUND,
        RefusalCode::PermissionDenied => StatusCode::FORBIDDEN,
        RefusalCode::NotADirectory
        | RefusalCode::AlreadyExists
        | RefusalCode::IsADirectory
        | RefusalCode::DirectoryNotEmpty
        | RefusalCode::NotAFile
        | RefusalCode::NotExecutable
        | RefusalCode::NotListening
        | RefusalCode::NoCheckpoint
        | RefusalCode::TooManyCheckpoints
        | RefusalCode::TreeTooLarge
        | RefusalCode::PatchTooLarge
        | RefusalCode::Changing
        | RefusalCode::TooSlow
        | RefusalCode::Image => StatusCode::CONFLICT,
        RefusalCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        RefusalCode::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
