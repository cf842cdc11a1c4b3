//! Slots for executions, and who waits for one: each user in a line of its own, and the lines in turn.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// Requests that wait at one time.
const MOST_WAITING: usize = 1000;

/// See the module; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// By user, the one whose turn is next in front. No line is empty.
    lines: VecDeque<(String, VecDeque<oneshot::Sender<Slot>>)>,
}

/// The right to one execution, until it is dropped. Absent once it has been given on.
#[derive(Debug)]
pub(super) struct Slot(Option<Arc<Mutex<State>>>);

impl Queue {
    pub(super) fn new(slots: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: slots, lines: VecDeque::new() })))
    }

    /// A slot, as soon as there is one. Whoever does not wait any longer leaves the line. `None` when too many wait already.
    pub(super) async fn slot(&self, user: &str) -> Option<Slot> {
        let turn = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.free > 0 {
                state.free -= 1;
                return Some(Slot(Some(Arc::clone(&self.0))));
            }
            state.forget_who_has_gone();
            if state.waiting() >= MOST_WAITING {
                return None;
            }
            let (sender, turn) = oneshot::channel();
            match state.lines.iter_mut().find(|(owner, _)| owner == user) {
                Some((_, line)) => line.push_back(sender),
                None => state.lines.push_back((user.to_owned(), VecDeque::from([sender]))),
            }
            turn
        };
        turn.await.ok()
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.len()).sum()
    }

    fn forget_who_has_gone(&mut self) {
        self.lines.retain_mut(|(_, line)| {
            line.retain(|waiting| !waiting.is_closed());
            !line.is_empty()
        });
    }

    /// Whoever is next. When nobody is, the slot is free.
    fn next(&mut self) -> Option<oneshot::Sender<Slot>> {
        let Some((user, mut line)) = self.lines.pop_front() else {
            self.free += 1;
            return None;
        };
        let next = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back((user, line));
        }
        next
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        loop {
            let next = shared.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(next) = next else { return };
            match next.send(Self(Some(Arc::clone(&shared)))) {
                Ok(()) => return,
                // One who has just gone; the slot is still ours to give.
                Err(mut refused) => refused.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::BoxFuture};

    use super::*;

    type Waiting = BoxFuture<'static, Option<Slot>>;

    fn waiting(queue: &Queue, user: &'static str) -> Waiting {
        let queue = queue.clone();
        let mut waiting = async move { queue.slot(user).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "it has to wait");
        waiting
    }

    fn now(waiting: &mut Waiting) -> Option<Slot> {
        waiting.now_or_never().map(|slot| slot.expect("there is a slot"))
    }

    #[tokio::test]
    async fn users_take_turns_and_each_in_order() {
        let queue = Queue::new(1);
        let held = queue.slot("a").await.unwrap();
        let [mut a1, mut a2, mut a3] = ["a"; 3].map(|user| waiting(&queue, user));
        let mut b1 = waiting(&queue, "b");
        drop(held);
        assert!(now(&mut b1).is_none() && now(&mut a2).is_none());
        let held = now(&mut a1).expect("who came first is first");
        drop(held);
        let held = now(&mut b1).expect("then another user, before the second of the first");
        drop(held);
        let held = now(&mut a2).unwrap();
        assert!(now(&mut a3).is_none());
        drop(held);
        drop(now(&mut a3).unwrap());
        assert_eq!(queue.0.lock().unwrap().free, 1);
    }

    #[tokio::test]
    async fn who_goes_away_keeps_nothing() {
        let queue = Queue::new(2);
        let (one, two) = (queue.slot("a").await.unwrap(), queue.slot("a").await.unwrap());
        let (gone, told, mut stays) = (waiting(&queue, "a"), waiting(&queue, "b"), waiting(&queue, "c"));
        drop(gone);
        drop(one);
        // It was given the slot, and goes before it has looked.
        drop(told);
        let three = now(&mut stays).expect("it was passed on");
        drop((two, three));
        let state = queue.0.lock().unwrap();
        assert_eq!((state.free, state.waiting()), (2, 0));
    }

    #[tokio::test]
    async fn the_line_has_an_end() {
        let queue = Queue::new(1);
        let _held = queue.slot("a").await.unwrap();
        let mut all: Vec<Waiting> = (0..MOST_WAITING).map(|_| waiting(&queue, "a")).collect();
        assert!(queue.slot("b").await.is_none());
        all.pop();
        let _last = waiting(&queue, "b");
    }
}
