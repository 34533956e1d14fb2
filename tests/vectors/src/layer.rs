//! The text of one frame: layers separated by ` / `, each a name and `key=value` fields.
//!
//! `eth src=client dst=wan / ip4 src=198.51.100.7 dst=192.0.2.10 / udp sport=4000 dport=53 / data "hello"`
//!
//! Only syntax lives here: which fields a layer has is known to [`crate::encode`].

use std::collections::BTreeMap;

/// One field's value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A literal or a name that the configuration gives a value to.
    Text(String),
    /// `$name`: bound at its first use in an expected frame, the same value everywhere after.
    Variable(String),
    /// `*`: whatever the frame holds; checksums still have to fit it.
    Any,
}

/// One layer as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// `eth`, `ip4`, `tcp`, ...
    pub name: String,
    /// Fields by name. A bare word is kept as `word=""`.
    pub fields: BTreeMap<String, Value>,
    /// Positional text, for `data "..."`, `hex ...`, `cut N` and `pad N`.
    pub text: Option<String>,
}

/// A frame as written, outermost layer first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameText {
    /// The layers in order.
    pub layers: Vec<Layer>,
}

impl FrameText {
    /// Reads a frame from its text. The error says what is wrong, without the place (the caller knows it).
    pub fn parse(text: &str) -> Result<Self, String> {
        let layers: Vec<Layer> = text
            .split(" / ")
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(parse_layer)
            .collect::<Result<_, _>>()?;
        if layers.is_empty() {
            return Err("a frame needs at least one layer".to_owned());
        }
        Ok(Self { layers })
    }
}

fn parse_layer(text: &str) -> Result<Layer, String> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let mut layer = Layer {
        name: name.to_owned(),
        fields: BTreeMap::new(),
        text: None,
    };
    if matches!(name, "data" | "hex" | "cut" | "pad") {
        layer.text = Some(rest.to_owned());
        return Ok(layer);
    }
    for word in rest.split_whitespace() {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("`{word}` in layer `{name}` is not key=value"))?;
        if layer
            .fields
            .insert(key.to_owned(), parse_value(value))
            .is_some()
        {
            return Err(format!("`{key}` is given twice in layer `{name}`"));
        }
    }
    Ok(layer)
}

fn parse_value(text: &str) -> Value {
    match text.strip_prefix('$') {
        Some(name) => Value::Variable(name.to_owned()),
        None if text == "*" => Value::Any,
        None => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fields_and_variables() {
        let frame = FrameText::parse(
            "eth src=a dst=b / ip4 src=1.2.3.4 ttl=* / udp sport=$p / data \"x y\"",
        )
        .unwrap();
        assert_eq!(frame.layers.len(), 4);
        assert_eq!(frame.layers[1].fields["ttl"], Value::Any);
        assert_eq!(
            frame.layers[2].fields["sport"],
            Value::Variable("p".to_owned())
        );
        assert_eq!(frame.layers[3].text.as_deref(), Some("\"x y\""));
    }

    #[test]
    fn errors_name_the_word() {
        assert!(
            FrameText::parse("eth src")
                .unwrap_err()
                .contains("`src` in layer `eth`")
        );
        assert!(
            FrameText::parse("eth src=a src=b")
                .unwrap_err()
                .contains("twice")
        );
        assert!(FrameText::parse("").is_err());
    }
}
