//! Faults on purpose, for tests: see [`Fault`].

use std::{ffi::CString, io, thread::sleep, time::Duration};

use caisson_launcher::{
    plan::{Effect, Fault, Setup},
    protocol::Stage,
};
use rustix::thread::set_name;

/// The launcher serves every sandbox, so it stands still for no longer than this.
const LAUNCHER_STANDS: Duration = Duration::from_secs(1);
/// Until somebody ends it.
const PROCESS_STANDS: Duration = Duration::from_secs(3600);

/// What happens on entering a stage: nothing, but in tests.
pub(crate) fn reach(setup: &Setup, stage: Stage) -> io::Result<()> {
    match setup.fault {
        Some(Fault { stage: faulty, effect }) if faulty == stage => happen(stage, effect),
        _ => Ok(()),
    }
}

fn happen(stage: Stage, effect: Effect) -> io::Result<()> {
    if let Effect::Fail(errno) = effect {
        return Err(io::Error::from_raw_os_error(errno));
    }
    set_name(&CString::new(stage.mark())?)?;
    if stage.is_the_launchers() {
        sleep(LAUNCHER_STANDS);
        Ok(set_name(c"caisson-launch")?)
    } else {
        sleep(PROCESS_STANDS);
        Err(io::ErrorKind::TimedOut.into())
    }
}
