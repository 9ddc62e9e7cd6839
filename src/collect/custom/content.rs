//! What other programs say, as a value of the declared type; and what a value may be.
//!
//! Device Defender takes values that it then does not keep, without a word: strings with other characters than
//! `A-Za-z:_-/.` (README of `mqtt5_basic_report` in aws-iot-device-sdk-cpp-v2; digits are not named there, and taken here).

use std::net::IpAddr;

use serde_json::Value;

use crate::model::{CustomType, CustomValue};

/// The most bytes another program may say at a time.
pub const MAX_CONTENT: usize = 64 * 1024;
/// The most items of a list. What is longer is no value: a part of it would be a wrong one.
pub const MAX_ITEMS: usize = 1_000;
/// The most characters of a string.
const MAX_TEXT: usize = 256;
/// How much of a wrong item is repeated in a message.
const SHOWN: usize = 40;

/// Text as it can be sent: what is not of `A-Z a-z 0-9 : _ - / .` becomes `_`, and the end is cut after 256 characters.
#[must_use]
pub fn text(raw: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '/' | '.');
    let kept = raw.chars().take(MAX_TEXT);
    kept.map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// Strings as a value; empty ones are left out, which the service does not take.
///
/// # Errors
/// There are more than [`MAX_ITEMS`].
pub fn listed(items: impl IntoIterator<Item = impl AsRef<str>>) -> Result<CustomValue, String> {
    let texts = items.into_iter().map(|item| text(item.as_ref()));
    let list: Vec<String> = texts.filter(|item| !item.is_empty()).collect();
    few_enough(list.len())?;
    Ok(CustomValue::StringList(list))
}

fn few_enough(count: usize) -> Result<(), String> {
    if count > MAX_ITEMS {
        return Err(format!("{count} items, more than {MAX_ITEMS}"));
    }
    Ok(())
}

/// Reads the content of a file, the output of a command or a message.
///
/// Plain text: one number, or one item of the list per line, empty lines left out. JSON: a number, a list, or the value as
/// a report has it, such as `{"number": 1}` or `[{"string_list": ["a"]}]`.
///
/// # Errors
/// In words, what is wrong with it.
pub fn parse(content: &[u8], kind: CustomType) -> Result<CustomValue, String> {
    if content.len() > MAX_CONTENT {
        return Err(format!("more than {MAX_CONTENT} bytes"));
    }
    let content = std::str::from_utf8(content)
        .map_err(|_| "is not UTF-8 text".to_owned())?
        .trim();
    if content.starts_with(['[', '{', '"']) {
        let value = serde_json::from_str(content).map_err(|error| format!("is not JSON: {error}"))?;
        return json(&value, kind);
    }
    let lines = || content.lines().map(str::trim).filter(|line| !line.is_empty());
    if kind != CustomType::Number {
        // Counted before anything is kept.
        few_enough(lines().count())?;
    }
    match kind {
        CustomType::Number if content.is_empty() => Err("is empty".to_owned()),
        CustomType::Number => Ok(CustomValue::Number(number(content)?)),
        CustomType::NumberList => Ok(CustomValue::NumberList(lines().map(number).collect::<Result<_, _>>()?)),
        CustomType::StringList => listed(lines()),
        CustomType::IpAddressList => Ok(CustomValue::IpList(lines().map(address).collect::<Result<_, _>>()?)),
    }
}

fn json(value: &Value, kind: CustomType) -> Result<CustomValue, String> {
    let key = match kind {
        CustomType::Number => "number",
        CustomType::NumberList => "number_list",
        CustomType::StringList => "string_list",
        CustomType::IpAddressList => "ip_list",
    };
    let as_reported = |value: &Value| {
        let map = value.as_object()?;
        map.get(key).filter(|_| map.len() == 1).cloned()
    };
    let value = match value {
        Value::Object(_) => &as_reported(value).ok_or_else(|| format!("is not {{\"{key}\": ...}}"))?,
        Value::Array(items) => match items.as_slice() {
            [one @ Value::Object(_)] => &as_reported(one).ok_or_else(|| format!("is not [{{\"{key}\": ...}}]"))?,
            _ => value,
        },
        _ => value,
    };
    if kind == CustomType::Number {
        return Ok(CustomValue::Number(json_number(value)?));
    }
    let items = value.as_array().ok_or_else(|| "is not a list".to_owned())?;
    few_enough(items.len())?;
    let texts = || {
        items.iter().map(|item| {
            item.as_str()
                .ok_or_else(|| format!("holds {}, which is no text", show(item)))
        })
    };
    match kind {
        CustomType::Number | CustomType::NumberList => Ok(CustomValue::NumberList(
            items.iter().map(json_number).collect::<Result<_, _>>()?,
        )),
        CustomType::StringList => listed(texts().collect::<Result<Vec<_>, _>>()?),
        CustomType::IpAddressList => {
            let addresses = texts().map(|item| address(item?));
            Ok(CustomValue::IpList(addresses.collect::<Result<_, _>>()?))
        }
    }
}

fn json_number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(found) => found.as_f64().filter(|found| found.is_finite()),
        Value::String(found) => return number(found),
        _ => None,
    }
    .ok_or_else(|| format!("{} is no number", show(value)))
}

fn show(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => shown(&other.to_string()),
    }
}

/// Outside text for a message: control characters escaped, cut.
fn shown(raw: &str) -> String {
    let cut: String = raw.chars().take(SHOWN).collect();
    let cut = cut.escape_debug().to_string();
    if raw.chars().nth(SHOWN).is_some() {
        cut + "…"
    } else {
        cut
    }
}

fn number(raw: &str) -> Result<f64, String> {
    let found: Option<f64> = raw.trim().parse().ok();
    // Also what Rust reads and no report can say: NaN, inf.
    found
        .filter(|found| found.is_finite())
        .ok_or_else(|| format!("\"{}\" is no number", shown(raw)))
}

fn address(raw: &str) -> Result<IpAddr, String> {
    let found: Result<IpAddr, _> = raw.parse();
    found
        .map(|address| address.to_canonical())
        .map_err(|_| format!("\"{}\" is no IP address", shown(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> CustomValue {
        CustomValue::StringList(items.iter().map(|item| (*item).to_owned()).collect())
    }

    fn addresses(items: &[&str]) -> CustomValue {
        CustomValue::IpList(items.iter().map(|item| item.parse().unwrap()).collect())
    }

    #[test]
    fn every_type_is_read_from_text_and_from_json() {
        let cases: &[(&str, CustomValue)] = &[
            ("42\n", CustomValue::Number(42.0)),
            (" -1.5e3 ", CustomValue::Number(-1500.0)),
            (r#"{"number": 7}"#, CustomValue::Number(7.0)),
            (r#"[{"number": 7}]"#, CustomValue::Number(7.0)),
            (r#""7.5""#, CustomValue::Number(7.5)),
            ("1\n\n2.5\r\n", CustomValue::NumberList(vec![1.0, 2.5])),
            ("[1, 2.5]", CustomValue::NumberList(vec![1.0, 2.5])),
            (r#"{"number_list": []}"#, CustomValue::NumberList(Vec::new())),
            ("", CustomValue::NumberList(Vec::new())),
            ("sshd\n/usr/bin/a b\n", strings(&["sshd", "/usr/bin/a_b"])),
            (r#"["a", "", "b/c"]"#, strings(&["a", "b/c"])),
            (r#"[{"string_list": ["a"]}]"#, strings(&["a"])),
            ("\n", strings(&[])),
            (
                "10.0.0.1\n::ffff:10.0.0.2\nfd00::1",
                addresses(&["10.0.0.1", "10.0.0.2", "fd00::1"]),
            ),
            (r#"{"ip_list": ["10.0.0.1"]}"#, addresses(&["10.0.0.1"])),
        ];
        for (content, value) in cases {
            assert_eq!(
                parse(content.as_bytes(), value.kind()).as_ref(),
                Ok(value),
                "{content:?}"
            );
        }
    }

    #[test]
    fn what_is_no_value_is_refused_in_words() {
        use CustomType::{IpAddressList, Number, NumberList, StringList};
        for (content, kind, words) in [
            ("", Number, "is empty"),
            ("NaN", Number, "no number"),
            ("inf", Number, "no number"),
            ("1e999", Number, "no number"),
            ("1 2", Number, "no number"),
            ("0x10", Number, "no number"),
            ("[1]", Number, "no number"),
            ("{\"number\": null}", Number, "null is no number"),
            ("{\"number\": 1, \"b\": 2}", Number, "is not {\"number\": ...}"),
            ("{\"string_list\": []}", Number, "is not {\"number\": ...}"),
            ("{", Number, "is not JSON"),
            ("1\nx", NumberList, "\"x\" is no number"),
            ("[1, [2]]", NumberList, "a list is no number"),
            ("\"a\"", StringList, "is not a list"),
            ("[1]", StringList, "1, which is no text"),
            ("10.0.0.256", IpAddressList, "no IP address"),
            ("host", IpAddressList, "no IP address"),
        ] {
            let error = parse(content.as_bytes(), kind).unwrap_err();
            assert!(error.contains(words), "{content:?}: {error}");
        }
        assert!(parse(b"\xff\xfe", Number).unwrap_err().contains("UTF-8"));
        assert!(
            parse(&vec![b'1'; MAX_CONTENT + 1], Number)
                .unwrap_err()
                .contains("65536 bytes")
        );
        let many = "1\n".repeat(MAX_ITEMS + 1);
        assert!(parse(many.as_bytes(), NumberList).unwrap_err().contains("1001 items"));
        assert!(parse("1\n".repeat(MAX_ITEMS).as_bytes(), NumberList).is_ok());
        let deep = "[".repeat(10_000);
        assert!(parse(deep.as_bytes(), NumberList).is_err());
    }

    #[test]
    fn messages_about_outside_text_are_short_and_printable() {
        let error = parse("\u{1b}[31m".repeat(1000).as_bytes(), CustomType::Number).unwrap_err();
        assert!(error.len() < 300 && !error.chars().any(char::is_control), "{error}");
    }

    #[test]
    fn strings_are_made_of_what_the_service_keeps() {
        assert_eq!(text("/opt/my app/bin-1.2:x_y"), "/opt/my_app/bin-1.2:x_y");
        assert_eq!(text("ü\n"), "__");
        assert_eq!(text(&"a".repeat(300)).len(), 256);
    }
}
