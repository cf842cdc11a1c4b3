//! The connections that are open. When there is no room for another, those that have been idle for longest give way, so that nobody keeps
//! others out by doing nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::socket::Traffic;

/// How many go at one time. Finding them means to look at all.
const AT_ONCE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Present {
    next: AtomicU64,
    connections: Mutex<HashMap<u64, (Arc<Traffic>, CancellationToken)>>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    present: Arc<Present>,
    number: u64,
    /// Says that the connection has to go.
    pub(crate) cut: CancellationToken,
}

impl Present {
    pub(crate) fn enter(self: &Arc<Self>, traffic: Arc<Traffic>) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let cut = CancellationToken::new();
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, (traffic, cut.clone()));
        Place { present: Arc::clone(self), number, cut }
    }

    /// Cuts those that have been without a request for longest. A connection whose answer is not complete is never among them.
    pub(crate) fn make_room(&self) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle: Vec<(Duration, &CancellationToken)> = connections
            .values()
            .filter(|(_, cut)| !cut.is_cancelled())
            .map(|(traffic, cut)| (traffic.idle(), cut))
            .filter(|(since, _)| !since.is_zero())
            .collect();
        // Few where few are allowed: most of what is idle may well be needed again.
        let count = AT_ONCE.min(idle.len().div_ceil(8));
        if count > 0 {
            idle.select_nth_unstable_by_key(count - 1, |(since, _)| std::cmp::Reverse(*since));
        }
        idle[..count].iter().for_each(|(_, cut)| cut.cancel());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.present.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r6_3_the_idlest_go_first_and_the_busy_never() {
        let present = Arc::new(Present::default());
        let busy = Traffic::new();
        let _answering = busy.begin();
        let place_of_the_busy = present.enter(busy);
        let mut idle = Vec::new();
        for _ in 0..20 {
            // Ages that differ.
            tokio::time::sleep(Duration::from_millis(2)).await;
            idle.push(present.enter(Traffic::new()));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        let cut = |places: &[Place]| places.iter().map(|place| place.cut.is_cancelled()).collect::<Vec<_>>();
        present.make_room();
        assert_eq!(cut(&idle), [[true; 3].as_slice(), &[false; 17]].concat(), "an eighth, the oldest");
        present.make_room();
        assert_eq!(cut(&idle), [[true; 6].as_slice(), &[false; 14]].concat(), "others, as the first are on their way");
        assert!(!place_of_the_busy.cut.is_cancelled());
        drop(idle);
        present.make_room();
        assert!(!place_of_the_busy.cut.is_cancelled());
        assert_eq!(present.connections.lock().unwrap().len(), 1, "places are given back");
    }
}
