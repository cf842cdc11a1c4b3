//! Fields of a body, taken as leniently as upstream takes them. All that is wrong is told at once, in the order of the fields.

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::faulty;
use crate::error::ApiResult;

/// What pad bits say is nobody's business; padding is.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Faults that are told; whoever has made so many has made them all alike.
const MOST_FAULTS: usize = 100;

/// One fault.
pub(super) fn fault(kind: &str, loc: Value, message: &str, input: Value) -> Value {
    json!({"type": kind, "loc": loc, "msg": message, "input": input})
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wrong {
    kind: &'static str,
    message: String,
    context: Option<Value>,
}

pub(super) fn wrong(kind: &'static str, message: impl Into<String>) -> Wrong {
    Wrong { kind, message: message.into(), context: None }
}

/// What a check of upstream's own says about a value.
pub(super) fn value_error(why: &str) -> Wrong {
    Wrong { context: Some(json!({"error": {}})), ..wrong("value_error", format!("Value error, {why}")) }
}

/// What is none of the texts that it may be.
pub(super) fn literal_error(expected: &str) -> Wrong {
    Wrong { context: Some(json!({"expected": expected})), ..wrong("literal_error", format!("Input should be {expected}")) }
}

/// The fields of one object, and the faults that were found so far.
pub(super) struct Check<'a> {
    fields: &'a Map<String, Value>,
    loc: Vec<Value>,
    faults: &'a mut Vec<Value>,
}

impl<'a> Check<'a> {
    pub(super) fn new(fields: &'a Map<String, Value>, faults: &'a mut Vec<Value>) -> Self {
        Self::at(fields, vec!["body".into()], faults)
    }

    pub(super) fn at(fields: &'a Map<String, Value>, loc: Vec<Value>, faults: &'a mut Vec<Value>) -> Self {
        Self { fields, loc, faults }
    }

    /// The fields of an object in a field, or in a list or an object there.
    pub(super) fn within<'b>(&'b mut self, at: &[Value], value: &'b Value) -> Option<Check<'b>> {
        let Value::Object(fields) = value else {
            let message = "Input should be a valid dictionary or object to extract fields from";
            self.wrong(at, value, wrong("model_attributes_type", message));
            return None;
        };
        let loc = self.loc.iter().chain(at).cloned().collect();
        Some(Check::at(fields, loc, self.faults))
    }

    /// A fault of a value that is somewhere in the object, or of the object itself.
    pub(super) fn wrong(&mut self, at: &[Value], value: &Value, wrong: Wrong) {
        let loc = self.loc.iter().chain(at).cloned().collect();
        self.add(loc, value, wrong);
    }

    /// Faults so far.
    pub(super) fn count(&self) -> usize {
        self.faults.len()
    }

    /// What a field has that is there.
    pub(super) fn given(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn loc(&self, name: &str) -> Vec<Value> {
        self.loc.iter().cloned().chain([name.into()]).collect()
    }

    fn add(&mut self, loc: Vec<Value>, input: &Value, wrong: Wrong) {
        if self.faults.len() >= MOST_FAULTS {
            return;
        }
        let mut fault = fault(wrong.kind, Value::Array(loc), &wrong.message, input.clone());
        if let Some(context) = wrong.context {
            fault["ctx"] = context;
        }
        self.faults.push(fault);
    }

    /// What a field has to be.
    pub(super) fn need<T>(&mut self, name: &str, take: impl FnOnce(&Value) -> Result<T, Wrong>) -> Option<T> {
        let loc = self.loc(name);
        match self.fields.get(name) {
            Some(value) => take(value).map_err(|wrong| self.add(loc, value, wrong)).ok(),
            None => {
                let whole = Value::Object(self.fields.clone());
                self.add(loc, &whole, wrong("missing", "Field required"));
                None
            }
        }
    }

    /// What a field may be; `null` is as good as absent.
    pub(super) fn may<T>(&mut self, name: &str, take: impl FnOnce(&Value) -> Result<T, Wrong>) -> Option<T> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        let loc = self.loc(name);
        take(value).map_err(|wrong| self.add(loc, value, wrong)).ok()
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let items = self.need(name, list)?;
        self.all_texts(name, items)
    }

    pub(super) fn may_texts(&mut self, name: &str) -> Option<Vec<String>> {
        let items = self.may(name, list)?;
        self.all_texts(name, items)
    }

    fn all_texts(&mut self, name: &str, items: Vec<Value>) -> Option<Vec<String>> {
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match text(item) {
                Ok(text) => texts.push(text),
                Err(wrong) => {
                    let loc = self.loc(name).into_iter().chain([index.into()]).collect();
                    self.add(loc, item, wrong);
                }
            }
        }
        (texts.len() == items.len()).then_some(texts)
    }

    /// An object of texts.
    pub(super) fn may_text_map(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let object = self.may(name, |value| match value {
            Value::Object(object) => Ok(object.clone()),
            _ => Err(wrong("dict_type", "Input should be a valid dictionary")),
        })?;
        let mut texts = BTreeMap::new();
        for (key, value) in &object {
            match text(value) {
                Ok(text) => drop(texts.insert(key.clone(), text)),
                Err(wrong) => {
                    let loc = self.loc(name).into_iter().chain([key.as_str().into()]).collect();
                    self.add(loc, value, wrong);
                }
            }
        }
        Some(texts)
    }
}

/// What was taken, if nothing is wrong.
pub(super) fn done<T>(taken: Option<T>, faults: Vec<Value>) -> ApiResult<T> {
    match taken {
        Some(taken) if faults.is_empty() => Ok(taken),
        _ => Err(faulty(faults)),
    }
}

pub(super) fn text(value: &Value) -> Result<String, Wrong> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong("string_type", "Input should be a valid string"))
}

pub(super) fn list(value: &Value) -> Result<Vec<Value>, Wrong> {
    value.as_array().cloned().ok_or_else(|| wrong("list_type", "Input should be a valid list"))
}

/// A list of so many.
pub(super) fn list_of(range: std::ops::RangeInclusive<usize>) -> impl FnOnce(&Value) -> Result<Vec<Value>, Wrong> {
    move |value| {
        let items = list(value)?;
        let (low, high, have) = (*range.start(), *range.end(), items.len());
        let plural = |count: usize| if count == 1 { "item" } else { "items" };
        if have < low {
            let message = format!("List should have at least {low} {} after validation, not {have}", plural(low));
            let context = Some(json!({"field_type": "List", "min_length": low, "actual_length": have}));
            return Err(Wrong { context, ..wrong("too_short", message) });
        }
        if have > high {
            let message = format!("List should have at most {high} {} after validation, not {have}", plural(high));
            let context = Some(json!({"field_type": "List", "max_length": high, "actual_length": have}));
            return Err(Wrong { context, ..wrong("too_long", message) });
        }
        Ok(items)
    }
}

pub(super) fn truth(value: &Value) -> Result<bool, Wrong> {
    let whole = match value {
        Value::Bool(truth) => return Ok(*truth),
        Value::String(text) => return truth_of(text),
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i64)),
        _ => None,
    };
    match whole {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(_) => Err(not_a_truth()),
        None => Err(wrong("bool_type", "Input should be a valid boolean")),
    }
}

fn not_a_truth() -> Wrong {
    wrong("bool_parsing", "Input should be a valid boolean, unable to interpret input")
}

/// As it stands in a query.
pub(super) fn truth_of(text: &str) -> Result<bool, Wrong> {
    match text.to_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(not_a_truth()),
    }
}

/// The fault of a parameter in the query.
pub(super) fn in_query(name: &str, given: &str, wrong: &Wrong) -> Value {
    fault(wrong.kind, json!(["query", name]), &wrong.message, given.into())
}

/// A whole number, and what lies beyond all numbers as the last one.
pub(super) fn integer(value: &Value) -> Result<i64, Wrong> {
    const UNPARSED: &str = "Input should be a valid integer, unable to parse string as an integer";
    let of_float = |float: f64| {
        if float.fract() == 0.0 {
            Ok(float as i64)
        } else {
            Err(wrong("int_from_float", "Input should be a valid integer, got a number with a fractional part"))
        }
    };
    match value {
        Value::Bool(truth) => Ok(i64::from(*truth)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Ok(integer),
            (None, Some(_)) => Ok(i64::MAX),
            (None, None) => of_float(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        Value::String(text) => {
            let text = text.trim();
            // A point with nothing but zeros behind it is none.
            let whole = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0')).map_or(text, |(whole, _)| whole);
            let (sign, digits) = whole.strip_prefix('-').map_or((1, whole.strip_prefix('+').unwrap_or(whole)), |digits| (-1, digits));
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong("int_parsing", UNPARSED));
            }
            Ok(digits.parse::<i64>().map_or(if sign < 0 { i64::MIN } else { i64::MAX }, |number| sign * number))
        }
        _ => Err(wrong("int_type", "Input should be a valid integer")),
    }
}

/// One within a range that may have no end.
pub(super) fn integer_in(low: i64, high: Option<i64>) -> impl FnOnce(&Value) -> Result<i64, Wrong> {
    move |value| {
        let number = integer(value)?;
        if number < low {
            let context = Some(json!({"ge": low}));
            return Err(Wrong { context, ..wrong("greater_than_equal", format!("Input should be greater than or equal to {low}")) });
        }
        match high {
            Some(high) if number > high => {
                let context = Some(json!({"le": high}));
                Err(Wrong { context, ..wrong("less_than_equal", format!("Input should be less than or equal to {high}")) })
            }
            _ => Ok(number),
        }
    }
}

/// A number that is not negative.
pub(super) fn amount(value: &Value) -> Result<f64, Wrong> {
    const UNPARSED: &str = "Input should be a valid number, unable to parse string as a number";
    let number = match value {
        Value::Bool(truth) => f64::from(u8::from(*truth)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::INFINITY),
        Value::String(text) => text.trim().parse().map_err(|_| wrong("float_parsing", UNPARSED))?,
        _ => return Err(wrong("float_type", "Input should be a valid number")),
    };
    if !number.is_finite() {
        return Err(wrong("finite_number", "Input should be a finite number"));
    }
    if number < 0.0 {
        let context = Some(json!({"ge": 0}));
        return Err(Wrong { context, ..wrong("greater_than_equal", "Input should be greater than or equal to 0") });
    }
    Ok(number)
}

/// The bytes that a text of base64 has. Blanks within it are passed over.
pub(super) fn base64(value: &Value) -> Result<Bytes, Wrong> {
    let mut text = text(value)?;
    text.retain(|c| !c.is_ascii_whitespace());
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    BASE64.decode(&text).map(Bytes::from).map_err(|_| {
        let digits = text.trim_end_matches('=');
        let error = if !digits.bytes().all(is_digit) {
            "Only base64 data is allowed".to_owned()
        } else if digits.len() % 4 == 1 {
            format!("Invalid base64-encoded string: number of data characters ({}) cannot be 1 more than a multiple of 4", digits.len())
        } else if text.len() % 4 == 0 || text.len() - digits.len() > 2 {
            "Excess data after padding".to_owned()
        } else {
            "Incorrect padding".to_owned()
        };
        let context = Some(json!({"error": error}));
        Wrong { context, ..wrong("base64_decode", format!("Base64 decoding error: '{error}'")) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T: std::fmt::Debug>(result: Result<T, Wrong>) -> &'static str {
        result.unwrap_err().kind
    }

    #[test]
    fn truths_are_read_leniently() {
        for (value, truth) in [
            (json!(true), true),
            (json!("false"), false),
            (json!("0"), false),
            (json!("NO"), false),
            (json!("off"), false),
            (json!("on"), true),
            (json!("Y"), true),
            (json!(0), false),
            (json!(1), true),
            (json!(1.0), true),
        ] {
            assert_eq!(super::truth(&value), Ok(truth), "{value}");
        }
        for (value, expect) in [(json!("maybe"), "bool_parsing"), (json!(""), "bool_parsing"), (json!(2), "bool_parsing")] {
            assert_eq!(kind(super::truth(&value)), expect, "{value}");
        }
        for value in [json!([]), json!({}), json!(1.5)] {
            assert_eq!(kind(super::truth(&value)), "bool_type", "{value}");
        }
    }

    #[test]
    fn numbers_are_read_leniently() {
        for (value, number) in [
            (json!(5), 5),
            (json!(2.0), 2),
            (json!("268435456"), 268_435_456),
            (json!(" -7 "), -7),
            (json!("+7.00"), 7),
            (json!(true), 1),
            (json!(u64::MAX), i64::MAX),
            (json!("99999999999999999999"), i64::MAX),
        ] {
            assert_eq!(integer(&value), Ok(number), "{value}");
        }
        for (value, expect) in [
            (json!("1.5"), "int_parsing"),
            (json!("x"), "int_parsing"),
            (json!(""), "int_parsing"),
            (json!("--1"), "int_parsing"),
            (json!(1.5), "int_from_float"),
            (json!([]), "int_type"),
        ] {
            assert_eq!(kind(integer(&value)), expect, "{value}");
        }
        let ranged = |value: Value| integer_in(0, Some(4095))(&value);
        assert_eq!(ranged(json!(4095)), Ok(4095));
        let low = ranged(json!(-1)).unwrap_err();
        assert_eq!((low.kind, low.message.as_str()), ("greater_than_equal", "Input should be greater than or equal to 0"));
        let high = ranged(json!(4096)).unwrap_err();
        assert_eq!((high.message.as_str(), high.context), ("Input should be less than or equal to 4095", Some(json!({"le": 4095}))));
        assert_eq!((amount(&json!("0.5")), amount(&json!(2))), (Ok(0.5), Ok(2.0)));
        for (value, expect) in
            [(json!("x"), "float_parsing"), (json!([]), "float_type"), (json!("inf"), "finite_number"), (json!(-1), "greater_than_equal")]
        {
            assert_eq!(kind(amount(&value)), expect, "{value}");
        }
    }

    #[test]
    fn base64_is_told_apart() {
        for (text, bytes) in [("aGVsbG8=", &b"hello"[..]), ("aGVs\nbG8=\r\n", b"hello"), ("", b""), ("aGk=", b"hi"), ("aGl=", b"hi")] {
            assert_eq!(base64(&json!(text)).unwrap(), bytes, "{text}");
        }
        for (text, error) in [
            ("aGVsbG8", "Incorrect padding"),
            ("aG==b", "Only base64 data is allowed"),
            ("aGk-", "Only base64 data is allowed"),
            ("ä", "Only base64 data is allowed"),
            ("aGVsb", "Invalid base64-encoded string: number of data characters (5) cannot be 1 more than a multiple of 4"),
            ("aGVs====", "Excess data after padding"),
        ] {
            let wrong = base64(&json!(text)).unwrap_err();
            assert_eq!(wrong.message, format!("Base64 decoding error: '{error}'"), "{text}");
            assert_eq!(wrong.context, Some(json!({"error": error})));
        }
        assert_eq!(kind(base64(&json!(5))), "string_type");
    }

    #[test]
    fn lists_are_counted() {
        let too_short = list_of(1..=64)(&json!([])).unwrap_err();
        assert_eq!(too_short.message, "List should have at least 1 item after validation, not 0");
        assert_eq!(too_short.context, Some(json!({"field_type": "List", "min_length": 1, "actual_length": 0})));
        let too_long = list_of(1..=64)(&json!(vec![0; 65])).unwrap_err();
        assert_eq!(too_long.message, "List should have at most 64 items after validation, not 65");
        assert_eq!(too_long.context, Some(json!({"field_type": "List", "max_length": 64, "actual_length": 65})));
    }

    #[test]
    fn all_faults_are_told_in_the_order_of_the_fields() {
        let Value::Object(fields) = json!({"commands": ["a", 5, null], "fail_fast": "maybe", "timeout": null}) else { unreachable!() };
        let mut faults = Vec::new();
        let mut check = Check::new(&fields, &mut faults);
        assert_eq!(check.texts("commands"), None);
        assert_eq!(check.may("fail_fast", truth), None);
        assert_eq!(check.may("timeout", integer), None);
        assert_eq!(check.need("base_image", text), None);
        let found: Vec<(String, Value)> = faults.iter().map(|fault| (fault["type"].to_string(), fault["loc"].clone())).collect();
        let expect = [
            ("\"string_type\"", json!(["body", "commands", 1])),
            ("\"string_type\"", json!(["body", "commands", 2])),
            ("\"bool_parsing\"", json!(["body", "fail_fast"])),
            ("\"missing\"", json!(["body", "base_image"])),
        ];
        assert_eq!(found, expect.map(|(kind, loc)| (kind.to_owned(), loc)));
        assert_eq!(faults[3]["input"], Value::Object(fields), "the enclosing object");
    }

    #[test]
    fn r6_3_very_many_faults_are_not_all_told() {
        let Value::Object(fields) = json!({"commands": vec![5; 1000]}) else { unreachable!() };
        let mut faults = Vec::new();
        assert_eq!(Check::new(&fields, &mut faults).texts("commands"), None);
        assert_eq!(faults.len(), MOST_FAULTS);
    }
}
