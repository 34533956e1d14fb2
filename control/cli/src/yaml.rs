//! Writing YAML that reads back as what it was: block style, strings quoted unless plainly words.

use serde_json::Value;

/// One document, with a line end.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn write(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    pad(indent, text);
                }
                text.push_str(&scalar(key));
                text.push(':');
                write_nested(value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(indent, text);
                }
                text.push_str("- ");
                write(item, indent + 2, text);
                end_line(text);
            }
        }
        Value::String(word) => text.push_str(&scalar(word)),
        other => text.push_str(&other.to_string()),
    }
    end_line(text);
}

fn write_nested(value: &Value, indent: usize, text: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_block {
        text.push('\n');
        pad(indent, text);
    } else {
        text.push(' ');
    }
    write(value, indent, text);
}

fn pad(indent: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', indent));
}

fn end_line(text: &mut String) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
}

/// A word as it is; anything that could be read as something else in quotes, as in JSON.
fn scalar(word: &str) -> String {
    let looks_plain = word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let means_something = matches!(
        word.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if looks_plain && !means_something {
        word.to_owned()
    } else {
        Value::from(word).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nesting_and_quoting() {
        let value = json!({
            "a": { "b": [1, { "c": "x", "d": [] }, ["p", "q"]], "e": {} },
            "f": "20000-32767", "g": "no", "h": "a: b", "i": null, "j": "2001:db8::1", "k": "plain/word",
        });
        let expected = r#"a:
  b:
    - 1
    - c: x
      d: []
    - - p
      - q
  e: {}
f: "20000-32767"
g: "no"
h: "a: b"
i: null
j: "2001:db8::1"
k: plain/word
"#;
        assert_eq!(to_yaml(&value), expected);
    }
}
