//! Lists for people: columns as wide as what is in them.

use crate::printable;

/// Between two columns.
const GAP: &str = "  ";

/// Rows under their headings. What is in the cells may come from anywhere: it cannot reach the terminal as anything but text.
pub(crate) fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![headings.iter().map(|heading| (*heading).to_owned()).collect()];
    lines.extend(
        rows.iter().map(|row| row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { printable::text(cell) }).collect()),
    );
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join(GAP).trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_show() {
        let rows = [vec!["a".to_owned(), String::new()], vec!["long name".to_owned(), "x".to_owned()]];
        assert_eq!(render(&["NAME", "STATE"], &rows), "NAME       STATE\na          -\nlong name  x\n");
    }

    #[test]
    fn r6_5_cells_cannot_break_out() {
        let rows = [vec!["\u{1b}]0;owned\u{7}\nfake row".to_owned()]];
        assert_eq!(render(&["NAME"], &rows), "NAME\n\\u{1b}]0;owned\\u{7}\\nfake row\n");
    }
}
