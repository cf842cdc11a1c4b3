//! Which sandbox runs on which processors: as many as its limit says, those with the fewest sandboxes first.

use std::io;

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// How many sandboxes each processor has.
#[derive(Debug)]
pub(crate) struct Processors {
    /// Number of the processor, and its sandboxes.
    load: Vec<(usize, u32)>,
}

impl Processors {
    /// Those that this process may use.
    pub(crate) fn find() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        Ok(Self { load: (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| (cpu, 0)).collect() })
    }

    /// Takes `count` processors for the process `pid` and everything that it will start. Gives back which, for [`Processors::release`].
    pub(crate) fn assign(&mut self, pid: Pid, count: u32) -> io::Result<Vec<usize>> {
        if count as usize >= self.load.len() {
            return Ok(Vec::new());
        }
        self.load.sort_by_key(|(cpu, sandboxes)| (*sandboxes, *cpu));
        let mut set = CpuSet::new();
        let mut taken = Vec::new();
        for (cpu, sandboxes) in self.load.iter_mut().take(count as usize) {
            set.set(*cpu);
            taken.push(*cpu);
            *sandboxes += 1;
        }
        if let Err(error) = sched_setaffinity(Some(pid), &set) {
            self.release(&taken);
            return Err(error.into());
        }
        Ok(taken)
    }

    pub(crate) fn release(&mut self, taken: &[usize]) {
        for (cpu, sandboxes) in &mut self.load {
            if taken.contains(cpu) {
                *sandboxes -= 1;
            }
        }
    }
}
