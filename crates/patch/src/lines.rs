//! Which lines are different: Myers' algorithm in linear space, with the short cuts that git's has for texts that share little.
//!
//! The work is bounded and the stack does not grow with the texts. Where a bound is reached, more lines count as changed than need be. No bound
//! is of time, so the same texts always give the same answer.

use std::{collections::HashMap, ops::Range};

/// Lines on either side, those that both begin or end with aside, that are compared; if there are more, all of them count as changed.
const MAX_LINES: usize = 1 << 19;
/// Steps, over all of a pair of texts.
const MAX_WORK: u64 = 1 << 28;
/// Least differences in one part before its best split so far is taken.
const MIN_COST: i32 = 256;
/// How far a change is moved to read better.
const MAX_SLIDE: usize = 100;

/// A text and where its lines begin.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a [u8],
    /// Of each line, and the end of the last one.
    begins: Vec<u32>,
}

/// Lines of the old text that those of the new one take the place of. Not both are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) old: Range<usize>,
    pub(crate) new: Range<usize>,
}

impl<'a> Lines<'a> {
    /// Of a text of less than 4 GiB.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let mut begins = vec![0];
        begins.extend(text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at as u32 + 1));
        if text.last().is_some_and(|byte| *byte != b'\n') {
            begins.push(text.len() as u32);
        }
        Self { text, begins }
    }

    pub(crate) fn len(&self) -> usize {
        self.begins.len() - 1
    }

    /// With its end of line, where it has one.
    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        &self.text[self.begins[index] as usize..self.begins[index + 1] as usize]
    }
}

/// The changes in order; between any two of them is at least one line that is the same.
pub(crate) fn compare(old: &Lines<'_>, new: &Lines<'_>) -> Vec<Change> {
    let shorter = old.len().min(new.len());
    let begin = (0..shorter).take_while(|&index| old.get(index) == new.get(index)).count();
    let end = (0..shorter - begin).take_while(|&back| old.get(old.len() - 1 - back) == new.get(new.len() - 1 - back)).count();
    let (old_middle, new_middle) = (begin..old.len() - end, begin..new.len() - end);
    let whole = Change { old: old_middle.clone(), new: new_middle.clone() };
    let changes = if old_middle.is_empty() || new_middle.is_empty() || old_middle.len().max(new_middle.len()) > MAX_LINES {
        vec![whole]
    } else {
        let (old_changed, new_changed) = changed(old, old_middle.clone(), new, new_middle.clone());
        gathered(begin, &old_changed, &new_changed)
    };
    slid(old, new, changes.into_iter().filter(|change| !change.old.is_empty() || !change.new.is_empty()).collect())
}

/// Of each line in these ranges whether it is changed.
fn changed(old: &Lines<'_>, old_range: Range<usize>, new: &Lines<'_>, new_range: Range<usize>) -> (Vec<bool>, Vec<bool>) {
    let mut numbers: HashMap<&[u8], (u32, bool)> = HashMap::new();
    for index in old_range.clone() {
        let next = numbers.len() as u32;
        numbers.entry(old.get(index)).or_insert((next, false));
    }
    // Lines that only one side has are changed in any case, and only make the search longer.
    let (mut a, mut b) = (Part::default(), Part::default());
    for (at, index) in new_range.clone().enumerate() {
        if let Some((number, both)) = numbers.get_mut(new.get(index)) {
            *both = true;
            b.push(*number, at);
        }
    }
    for (at, index) in old_range.clone().enumerate() {
        if let Some((number, true)) = numbers.get(old.get(index)) {
            a.push(*number, at);
        }
    }
    drop(numbers);
    let mut search = Search::new(&a.numbers, &b.numbers);
    search.run();
    (a.spread(&search.a_kept, old_range.len()), b.spread(&search.b_kept, new_range.len()))
}

/// Lines that both sides have.
#[derive(Default)]
struct Part {
    numbers: Vec<u32>,
    places: Vec<u32>,
}

impl Part {
    fn push(&mut self, number: u32, place: usize) {
        self.numbers.push(number);
        self.places.push(place as u32);
    }

    /// What is changed of all lines.
    fn spread(&self, kept: &[bool], lines: usize) -> Vec<bool> {
        let mut changed = vec![true; lines];
        for (place, _) in self.places.iter().zip(kept).filter(|(_, kept)| **kept) {
            changed[*place as usize] = false;
        }
        changed
    }
}

/// From lines that are changed to changes. As many are not on one side as on the other.
fn gathered(begin: usize, old: &[bool], new: &[bool]) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut a, mut b) = (0, 0);
    while a < old.len() || b < new.len() {
        let (from_a, from_b) = (a, b);
        a += old[a..].iter().take_while(|changed| **changed).count();
        b += new[b..].iter().take_while(|changed| **changed).count();
        if (a, b) == (from_a, from_b) {
            (a, b) = (a + 1, b + 1);
        } else {
            changes.push(Change { old: begin + from_a..begin + a, new: begin + from_b..begin + b });
        }
    }
    changes
}

/// The longest common part of two sequences, or nearly.
struct Search<'a> {
    a: &'a [u32],
    b: &'a [u32],
    a_kept: Vec<bool>,
    b_kept: Vec<bool>,
    /// How far in `a` each diagonal was followed, from the begin and from the end. The diagonal `x - y` has the index `x - y + shift`.
    forward: Vec<i32>,
    backward: Vec<i32>,
    shift: i32,
    cost: i32,
    work: u64,
}

impl<'a> Search<'a> {
    fn new(a: &'a [u32], b: &'a [u32]) -> Self {
        let diagonals = a.len() + b.len() + 3;
        Self {
            a,
            b,
            a_kept: vec![false; a.len()],
            b_kept: vec![false; b.len()],
            forward: vec![0; diagonals],
            backward: vec![0; diagonals],
            shift: b.len() as i32 + 1,
            cost: (diagonals as f64).sqrt() as i32,
            work: 0,
        }
    }

    fn run(&mut self) {
        self.cost = self.cost.max(MIN_COST);
        let mut parts = vec![(0, self.a.len() as i32, 0, self.b.len() as i32)];
        while let Some((mut a0, mut a1, mut b0, mut b1)) = parts.pop() {
            while a0 < a1 && b0 < b1 && self.same(a0, b0) {
                self.keep(a0, b0);
                (a0, b0) = (a0 + 1, b0 + 1);
            }
            while a0 < a1 && b0 < b1 && self.same(a1 - 1, b1 - 1) {
                (a1, b1) = (a1 - 1, b1 - 1);
                self.keep(a1, b1);
            }
            if a0 == a1 || b0 == b1 || self.work > MAX_WORK {
                continue;
            }
            let (x, y) = self.split(a0, a1, b0, b1);
            // Neither is the whole, or it would go on for ever.
            if (x, y) != (a0, b0) && (x, y) != (a1, b1) {
                parts.push((a0, x, b0, y));
                parts.push((x, a1, y, b1));
            }
        }
    }

    fn same(&self, x: i32, y: i32) -> bool {
        self.a[x as usize] == self.b[y as usize]
    }

    fn keep(&mut self, x: i32, y: i32) {
        self.a_kept[x as usize] = true;
        self.b_kept[y as usize] = true;
    }

    /// A point on a shortest path through this part, found from both ends; beyond the cost, the one that is furthest from an end.
    fn split(&mut self, a0: i32, a1: i32, b0: i32, b1: i32) -> (i32, i32) {
        let at = |diagonal: i32, shift: i32| (diagonal + shift) as usize;
        let shift = self.shift;
        let (lowest, highest) = (a0 - b1, a1 - b0);
        let (forth, back) = (a0 - b0, a1 - b1);
        let odd = (forth - back) & 1 != 0;
        let (mut f_min, mut f_max, mut b_min, mut b_max) = (forth, forth, back, back);
        self.forward[at(forth, shift)] = a0;
        self.backward[at(back, shift)] = a1;
        let mut cost = 0;
        loop {
            cost += 1;
            if f_min > lowest {
                f_min -= 1;
                self.forward[at(f_min - 1, shift)] = -1;
            } else {
                f_min += 1;
            }
            if f_max < highest {
                f_max += 1;
                self.forward[at(f_max + 1, shift)] = -1;
            } else {
                f_max -= 1;
            }
            let mut diagonal = f_max;
            while diagonal >= f_min {
                let (below, above) = (self.forward[at(diagonal - 1, shift)], self.forward[at(diagonal + 1, shift)]);
                let start = if below >= above { below + 1 } else { above };
                let mut x = start;
                while x < a1 && x - diagonal < b1 && self.same(x, x - diagonal) {
                    x += 1;
                }
                self.work += 1 + (x - start) as u64;
                self.forward[at(diagonal, shift)] = x;
                if odd && b_min <= diagonal && diagonal <= b_max && self.backward[at(diagonal, shift)] <= x {
                    return (x, x - diagonal);
                }
                diagonal -= 2;
            }
            if b_min > lowest {
                b_min -= 1;
                self.backward[at(b_min - 1, shift)] = i32::MAX;
            } else {
                b_min += 1;
            }
            if b_max < highest {
                b_max += 1;
                self.backward[at(b_max + 1, shift)] = i32::MAX;
            } else {
                b_max -= 1;
            }
            let mut diagonal = b_max;
            while diagonal >= b_min {
                let (below, above) = (self.backward[at(diagonal - 1, shift)], self.backward[at(diagonal + 1, shift)]);
                let start = if below < above { below } else { above - 1 };
                let mut x = start;
                while x > a0 && x - diagonal > b0 && self.same(x - 1, x - diagonal - 1) {
                    x -= 1;
                }
                self.work += 1 + (start - x) as u64;
                self.backward[at(diagonal, shift)] = x;
                if !odd && f_min <= diagonal && diagonal <= f_max && x <= self.forward[at(diagonal, shift)] {
                    return (x, x - diagonal);
                }
                diagonal -= 2;
            }
            if cost >= self.cost || self.work > MAX_WORK {
                return self.furthest((a0, a1, b0, b1), (f_min, f_max), (b_min, b_max));
            }
        }
    }

    fn furthest(&self, (a0, a1, b0, b1): (i32, i32, i32, i32), f: (i32, i32), b: (i32, i32)) -> (i32, i32) {
        let every_other = |(min, max): (i32, i32)| (min..=max).rev().step_by(2);
        let index = |diagonal: i32| (diagonal + self.shift) as usize;
        let forward = every_other(f).map(|diagonal| {
            let x = self.forward[index(diagonal)].min(a1).min(b1 + diagonal);
            (x, x - diagonal)
        });
        let backward = every_other(b).map(|diagonal| {
            let x = self.backward[index(diagonal)].max(a0).max(b0 + diagonal);
            (x, x - diagonal)
        });
        let first = forward.max_by_key(|(x, y)| x + y).unwrap_or((a0, b0));
        let last = backward.min_by_key(|(x, y)| x + y).unwrap_or((a1, b1));
        if a1 + b1 - (last.0 + last.1) < first.0 + first.1 - (a0 + b0) { first } else { last }
    }
}

/// Moves what was only added, or only removed, along lines that repeat, to where it reads as a whole: it begins behind a line that is
/// blank or indented least, and ends before one. What touches another change by that becomes one with it.
fn slid(old: &Lines<'_>, new: &Lines<'_>, changes: Vec<Change>) -> Vec<Change> {
    let mut out: Vec<Change> = Vec::with_capacity(changes.len());
    for index in 0..changes.len() {
        let change = &changes[index];
        let (lines, range) = match (change.old.is_empty(), change.new.is_empty()) {
            (true, false) => (new, &change.new),
            (false, true) => (old, &change.old),
            _ => {
                out.push(change.clone());
                continue;
            }
        };
        // One line that is the same stays between two changes.
        let before = out.last().map_or(change.old.start, |last| (change.old.start - last.old.end).saturating_sub(1));
        let after = changes.get(index + 1).map_or(old.len() - change.old.end, |next| (next.old.start - change.old.end).saturating_sub(1));
        let up = (0..before.min(MAX_SLIDE)).take_while(|by| lines.get(range.start - by - 1) == lines.get(range.end - by - 1)).count();
        let down = (0..after.min(MAX_SLIDE)).take_while(|by| lines.get(range.start + by) == lines.get(range.end + by)).count();
        let by = (-(up as isize)..=down as isize)
            .map(|by| (cut(lines, range.start.wrapping_add_signed(by)) + cut(lines, range.end.wrapping_add_signed(by)), by))
            .min_by_key(|(cost, by)| (*cost, -by))
            .map_or(0, |(_, by)| by);
        let moved = |range: &Range<usize>| range.start.wrapping_add_signed(by)..range.end.wrapping_add_signed(by);
        out.push(Change { old: moved(&change.old), new: moved(&change.new) });
    }
    out
}

/// How little it suits to cut a text before this line: by its indent, less so behind a blank line.
fn cut(lines: &Lines<'_>, at: usize) -> usize {
    let indent = |index: usize| {
        let line = lines.get(index);
        let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).map(|byte| if *byte == b'\t' { 8 } else { 1 }).sum();
        if line.iter().all(u8::is_ascii_whitespace) { None } else { Some(blanks) }
    };
    if at == 0 || at >= lines.len() {
        return 0;
    }
    let next: Option<usize> = (at..lines.len().min(at + 3)).find_map(indent);
    2 * next.unwrap_or(0) + usize::from(indent(at - 1).is_some()) + 2 * usize::from(indent(at).is_none())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    /// Makes the new text out of the old one and the changes, and checks what is promised of them.
    fn check(old: &[u8], new: &[u8]) -> Vec<Change> {
        let (a, b) = (Lines::new(old), Lines::new(new));
        let changes = compare(&a, &b);
        let (mut made, mut x, mut y) = (Vec::new(), 0, 0);
        for (index, change) in changes.iter().enumerate() {
            assert!(!change.old.is_empty() || !change.new.is_empty());
            assert!(index == 0 || change.old.start > x, "a line between");
            assert_eq!(change.old.start - x, change.new.start - y);
            (x..change.old.start).for_each(|line| made.extend_from_slice(a.get(line)));
            change.new.clone().for_each(|line| made.extend_from_slice(b.get(line)));
            (x, y) = (change.old.end, change.new.end);
        }
        (x..a.len()).for_each(|line| made.extend_from_slice(a.get(line)));
        assert!(made == new);
        changes
    }

    fn count(changes: &[Change]) -> usize {
        changes.iter().map(|change| change.old.len() + change.new.len()).sum()
    }

    #[test]
    fn what_is_same_is_found() {
        for (old, new, expect) in [
            ("", "", 0),
            ("a\n", "a\n", 0),
            ("a\n", "a", 2),
            ("", "a\nb\n", 2),
            ("a\nb\nc\na\nb\nb\na\n", "c\nb\na\nb\na\nc\n", 5),
            ("a\r\nb\n", "a\nb\n", 2),
            ("x\na\nb\nc\n", "a\nb\nc\ny\n", 2),
        ] {
            assert_eq!(count(&check(old.as_bytes(), new.as_bytes())), expect, "{old:?} {new:?}");
        }
    }

    #[test]
    fn what_is_added_reads_as_a_whole() {
        let changes =
            check(b"fn a() {\n    x\n}\n\nfn c() {\n    x\n}\n", b"fn a() {\n    x\n}\n\nfn b() {\n    x\n}\n\nfn c() {\n    x\n}\n");
        assert_eq!(changes, [Change { old: 4..4, new: 4..8 }]);
    }

    #[test]
    fn texts_that_share_nothing_much_take_bounded_work() {
        let begin = Instant::now();
        let mut seed = 1u64;
        let mut random = move |of: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % of
        };
        // Few kinds of lines in no order, many that come once on each side in another order, and repetition.
        for kinds in [3, 500, 1_000_000] {
            let text = |random: &mut dyn FnMut(u64) -> u64| {
                (0..200_000).flat_map(|_| format!("{}\n", random(kinds)).into_bytes()).collect::<Vec<_>>()
            };
            check(&text(&mut random), &text(&mut random));
        }
        check(&b"a\nb\n".repeat(200_000), &[&b"b\n"[..], &b"b\na\na\n".repeat(130_000)].concat());
        assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn changes_make_the_new_text(old in "([abc ]{0,2}\n){0,30}[ab]?", new in "([abc ]{0,2}\n){0,30}[ab]?") {
            check(old.as_bytes(), new.as_bytes());
        }

        #[test]
        fn small_texts_have_the_fewest_changes(old in prop::collection::vec(0..4u8, 0..20), new in prop::collection::vec(0..4u8, 0..20)) {
            let text = |lines: &[u8]| lines.iter().flat_map(|line| [b'a' + line, b'\n']).collect::<Vec<_>>();
            let mut longest = vec![vec![0; new.len() + 1]; old.len() + 1];
            for x in 0..old.len() {
                for y in 0..new.len() {
                    longest[x + 1][y + 1] = if old[x] == new[y] { longest[x][y] + 1 } else { longest[x][y + 1].max(longest[x + 1][y]) };
                }
            }
            let least = old.len() + new.len() - 2 * longest[old.len()][new.len()];
            prop_assert_eq!(count(&check(&text(&old), &text(&new))), least);
        }
    }
}
