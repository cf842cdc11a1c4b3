//! System calls as they are, without the C library's opinions.

use std::io;

/// A number that is no descriptor, no address and no flag.
pub const NONSENSE: i64 = -1;

/// Makes a system call with up to six arguments. Its result, or `errno`.
pub fn call(number: libc::c_long, arguments: &[i64]) -> Result<i64, i32> {
    let mut six = [0i64; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: arguments are numbers, or addresses of memory that the caller keeps; the kernel answers EFAULT to any other.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(errno()) } else { Ok(result) }
}

pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// An errno by its name.
pub fn name(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        libc::EINVAL => "EINVAL".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::EFAULT => "EFAULT".to_owned(),
        libc::EBADF => "EBADF".to_owned(),
        libc::EOPNOTSUPP => "EOPNOTSUPP".to_owned(),
        libc::EAFNOSUPPORT => "EAFNOSUPPORT".to_owned(),
        libc::ENETUNREACH => "ENETUNREACH".to_owned(),
        libc::ECONNREFUSED => "ECONNREFUSED".to_owned(),
        other => io::Error::from_raw_os_error(other).to_string(),
    }
}

/// What a call came to, in words.
pub fn told(result: &Result<i64, i32>) -> String {
    match result {
        Ok(value) => format!("it worked ({value})"),
        Err(errno) => name(*errno),
    }
}

/// Runs `attempt` in a process of its own and gives back its exit status, or the signal that ended it as a negative number. For attempts
/// that may end the one who makes them.
pub fn apart(attempt: impl FnOnce() -> u8) -> i32 {
    // SAFETY: this program has one thread, so the copy is whole; it leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => i32::MIN,
        0 => {
            let status = attempt();
            // SAFETY: ends the copy at once.
            unsafe { libc::_exit(status.into()) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: reaps our own child into a live int.
            while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 && errno() == libc::EINTR {}
            if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
        }
    }
}
