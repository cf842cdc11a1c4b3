//! What fields may be. All that is wrong with a request is told together.

use std::ops::RangeInclusive;

use caisson_core::Uuid;

use super::answer::{ModboxProblem, invalid};
use crate::error::ApiResult;

/// What is wrong with a body so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<ModboxProblem>);

impl Problems {
    pub(super) fn add(&mut self, field: &str, issue: impl Into<String>) {
        self.0.push(ModboxProblem { field: Some(format!("body.{field}")), issue: issue.into() });
    }

    /// A text of so many characters, if there is one.
    pub(super) fn text(&mut self, field: &str, text: Option<&str>, characters: RangeInclusive<usize>) {
        let Some(text) = text else { return };
        if !characters.contains(&text.chars().count()) {
            let (least, most) = (characters.start(), characters.end());
            self.add(field, format!("has {} characters, and {least} to {most} are allowed", text.chars().count()));
        } else if text.contains('\0') {
            self.add(field, "contains NUL");
        }
    }

    /// A text that has to be there.
    pub(super) fn required(&mut self, field: &str, text: Option<String>, characters: RangeInclusive<usize>) -> String {
        if text.is_none() {
            self.add(field, "is missing");
        }
        self.text(field, text.as_deref(), characters);
        text.unwrap_or_default()
    }

    /// A figure, if there is one.
    pub(super) fn within(&mut self, field: &str, figure: Option<i64>, range: RangeInclusive<i64>) -> Option<u64> {
        let figure = figure?;
        if !range.contains(&figure) {
            self.add(field, format!("is {figure}, and {} to {} are allowed", range.start(), range.end()));
        }
        u64::try_from(figure).ok()
    }

    pub(super) fn uuid(&mut self, field: &str, text: Option<&str>) -> Option<Uuid> {
        let uuid = text?.parse();
        if uuid.is_err() {
            self.add(field, "is no UUID");
        }
        uuid.ok()
    }

    pub(super) fn email(&mut self, field: &str, text: Option<&str>) {
        if text.is_some_and(|text| !is_email(text)) {
            self.add(field, "is no e-mail address");
        }
    }

    pub(super) fn done(self) -> ApiResult<()> {
        if self.0.is_empty() { Ok(()) } else { Err(invalid(self.0)) }
    }
}

/// The longest address that is taken; it has to fit into a note.
const LONGEST_EMAIL: usize = 150;

/// Whether it may be an e-mail address. Nobody is sent anything.
pub(super) fn is_email(text: &str) -> bool {
    let plain = text.len() <= LONGEST_EMAIL && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    plain
        && text.split_once('@').is_some_and(|(name, domain)| {
            let labels = domain.split('.').all(|label| !label.is_empty());
            !name.is_empty() && !domain.contains('@') && domain.contains('.') && labels
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_name_and_a_domain() {
        for good in ["a@b.example", "a.b+c@d-e.example.org", "ä@ö.example"] {
            assert!(is_email(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "@b.example",
            "a@",
            "a@b",
            "a@b.",
            "a@.b",
            "a@b@c.example",
            "a b@c.example",
            &format!("{}@b.example", "a".repeat(150)),
        ] {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn all_problems_are_told_together() {
        let mut problems = Problems::default();
        problems.text("a", Some(""), 1..=2);
        problems.text("b", Some("äö"), 1..=2);
        problems.within("c", Some(-1), 0..=1);
        problems.uuid("d", Some("x"));
        problems.required("e", None, 1..=2);
        let error = problems.done().unwrap_err();
        let fields: Vec<_> = error.details().unwrap().as_array().unwrap().iter().map(|problem| problem["field"].clone()).collect();
        assert_eq!(fields, ["body.a", "body.c", "body.d", "body.e"]);
        Problems::default().done().unwrap();
    }
}
