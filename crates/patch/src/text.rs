//! Changes of a text as hunks with three lines of context.

use crate::{
    Error,
    lines::{Change, Lines, compare},
    output::Output,
};

const CONTEXT: usize = 3;

/// The hunks that lead from one text to another; none if they are the same.
pub(crate) fn put(out: &mut Output<'_>, old: &[u8], new: &[u8]) -> Result<(), Error> {
    let (a, b) = (Lines::new(old), Lines::new(new));
    let changes = compare(&a, &b);
    for hunk in changes.chunk_by(|one, next| next.old.start - one.old.end <= 2 * CONTEXT) {
        put_hunk(out, &a, &b, hunk)?;
    }
    Ok(())
}

fn put_hunk(out: &mut Output<'_>, old: &Lines<'_>, new: &Lines<'_>, changes: &[Change]) -> Result<(), Error> {
    let [first, ..] = changes else { return Ok(()) };
    let last = &changes[changes.len() - 1];
    let before = first.old.start.min(CONTEXT);
    let after = (old.len() - last.old.end).min(CONTEXT);
    let old_range = first.old.start - before..last.old.end + after;
    let new_range = first.new.start - before..last.new.end + after;
    out.put(format!("@@ -{} +{} @@\n", place(&old_range), place(&new_range)))?;
    let mut at = old_range.start;
    for change in changes {
        put_lines(out, b' ', old, at..change.old.start)?;
        put_lines(out, b'-', old, change.old.clone())?;
        put_lines(out, b'+', new, change.new.clone())?;
        at = change.old.end;
    }
    put_lines(out, b' ', old, at..old_range.end)
}

/// Where lines are, counted from one; if there are none, behind which one.
fn place(range: &std::ops::Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        length => format!("{},{length}", range.start + 1),
    }
}

fn put_lines(out: &mut Output<'_>, sign: u8, lines: &Lines<'_>, range: std::ops::Range<usize>) -> Result<(), Error> {
    for index in range {
        let line = lines.get(index);
        out.put([sign])?;
        out.put(line)?;
        if line.last() != Some(&b'\n') {
            out.put("\n\\ No newline at end of file\n")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: &str, new: &str, expect: &str) {
        let mut to = Vec::new();
        let mut out = Output::new(&mut to, u64::MAX);
        put(&mut out, old.as_bytes(), new.as_bytes()).unwrap();
        out.end().unwrap();
        assert_eq!(String::from_utf8(to).unwrap(), expect);
    }

    #[test]
    fn hunks_are_those_of_git() {
        check("old\n", "new\n", "@@ -1 +1 @@\n-old\n+new\n");
        check("", "a\nb", "@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n");
        check("a\n", "", "@@ -1 +0,0 @@\n-a\n");
        check("a", "a\n", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n");
        check("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n3\n4\n5\n6\n7\n8\nnine\n", "@@ -1,9 +1,8 @@\n 1\n-2\n 3\n 4\n 5\n 6\n 7\n 8\n-9\n+nine\n");
        check(
            "1\n2\n3\n4\n5\n6\n7\n8\n9\n",
            "x\n2\n3\n4\n5\n6\n7\n8\ny\n",
            "@@ -1,4 +1,4 @@\n-1\n+x\n 2\n 3\n 4\n@@ -6,4 +6,4 @@\n 6\n 7\n 8\n-9\n+y\n",
        );
    }
}
