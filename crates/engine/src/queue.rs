//! A line for each tenant, and turns among the tenants: whoever has many waiting holds up nobody but itself.

use std::collections::{HashMap, VecDeque};

use caisson_core::Tenant;

/// Within one tenant first come, first served; among tenants each in its turn.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    lines: HashMap<Tenant, VecDeque<T>>,
    /// The tenants who have somebody waiting, each once, the next one first.
    turns: VecDeque<Tenant>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    /// The end of this tenant's line. Gives it back where `most` wait there already, of those that `still` do.
    pub(crate) fn push(&mut self, tenant: &Tenant, one: T, most: usize, still: impl Fn(&T) -> bool) -> Result<(), T> {
        let line = self.lines.entry(tenant.clone()).or_default();
        let is_new = line.is_empty();
        line.retain(still);
        let is_full = line.len() >= most;
        let refused = if is_full {
            Some(one)
        } else {
            line.push_back(one);
            None
        };
        if is_new && !is_full {
            self.turns.push_back(tenant.clone());
        }
        if self.lines.get(tenant).is_some_and(VecDeque::is_empty) {
            self.lines.remove(tenant);
            self.turns.retain(|other| other != tenant);
        }
        refused.map_or(Ok(()), Err)
    }

    /// Whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let tenant = self.turns.pop_front()?;
        let line = self.lines.get_mut(&tenant)?;
        let one = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        one
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many wait in all.
    pub(crate) fn len(&self) -> usize {
        self.lines.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    #[test]
    fn tenants_take_turns_and_lines_are_in_order() {
        let mut queue = Queue::default();
        for (name, one) in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")] {
            queue.push(&tenant(name), one, 9, |_| true).unwrap();
        }
        assert_eq!(queue.len(), 6);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty() && queue.lines.is_empty());
    }

    #[test]
    fn a_line_has_an_end_and_those_who_left_take_no_place() {
        let mut queue = Queue::default();
        for one in [1, 2] {
            queue.push(&tenant("a"), one, 2, |_| true).unwrap();
        }
        assert_eq!(queue.push(&tenant("a"), 3, 2, |_| true), Err(3));
        queue.push(&tenant("b"), 4, 2, |_| true).unwrap();
        queue.push(&tenant("a"), 5, 2, |one| *one != 1).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [2, 4, 5]);
    }

    #[test]
    fn a_line_that_everybody_left_is_no_turn() {
        let mut queue = Queue::default();
        queue.push(&tenant("a"), 1, 1, |_| true).unwrap();
        assert_eq!(queue.push(&tenant("a"), 2, 0, |_| false), Err(2));
        assert!(queue.is_empty() && queue.pop().is_none());
        queue.push(&tenant("a"), 3, 1, |_| true).unwrap();
        queue.push(&tenant("a"), 4, 1, |_| false).unwrap();
        assert_eq!((queue.turns.len(), queue.pop(), queue.pop()), (1, Some(4), None));
    }
}
