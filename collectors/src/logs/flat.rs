//! One JSON line as a flat list of fields: nested objects become dotted names. Owns the bounds on fields, depth and lists;
//! refuses to build a tree.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Fields of one line that are looked at. A log line with more is data, not a log line; the rest is skipped.
const FIELDS_MAX: usize = 96;
/// Entries of a list that are kept: etcd prints at most a few dozen steps.
const LIST_MAX: usize = 64;
/// Levels of nesting that become dotted names: `resource.service.name` needs three.
const DEPTH_MAX: usize = 4;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A whole number that fits 64 bits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A list's strings; what else was in it is left out.
    List(Vec<Cow<'a, str>>),
}

/// The fields of one line, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Fields<'a> {
    /// Reads one JSON object. `None` where it is none, or not whole.
    #[must_use]
    pub(super) fn read(line: &'a [u8]) -> Option<Fields<'a>> {
        let mut fields = Fields::default();
        let mut reader = serde_json::Deserializer::from_slice(line);
        Object { into: &mut fields, prefix: "", depth: 0 }.deserialize(&mut reader).ok()?;
        reader.end().ok()?;
        Some(fields)
    }

    /// The field, if it stands in the line.
    #[must_use]
    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The first of these fields that is a string with something in it.
    #[must_use]
    pub(super) fn text(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| match self.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text.as_ref()),
            _ => None,
        })
    }

    /// The first of these fields that is a number.
    #[must_use]
    pub(super) fn number(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| match self.get(name) {
            Some(Value::Int(value)) => Some(*value as f64),
            Some(Value::Float(value)) => Some(*value),
            _ => None,
        })
    }

    /// A whole number.
    #[must_use]
    pub(super) fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Value::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// All fields, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.fields.iter().map(|(key, value)| (key.as_ref(), value))
    }

    fn push(&mut self, name: Cow<'a, str>, value: Value<'a>) {
        if self.fields.len() < FIELDS_MAX {
            self.fields.push((name, value));
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::List(texts) => f.write_str(&texts.join("; ")),
        }
    }
}

struct Object<'f, 'a> {
    into: &'f mut Fields<'a>,
    prefix: &'f str,
    depth: usize,
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let name =
                if self.prefix.is_empty() { key } else { Cow::Owned(format!("{}.{key}", self.prefix)) };
            map.next_value_seed(Field { into: self.into, name, depth: self.depth })?;
        }
        Ok(())
    }
}

struct Field<'f, 'a> {
    into: &'f mut Fields<'a>,
    name: Cow<'a, str>,
    depth: usize,
}

impl<'a> DeserializeSeed<'a> for Field<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Field<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<(), E> {
        self.into.push(self.name, Value::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.into.push(self.name, Value::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.into.push(self.name, Value::Int(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        // Numbers beyond i64 are ids (raft request ids): their low digits do not matter to anyone.
        let value = i64::try_from(value).map_or(Value::Float(value as f64), Value::Int);
        self.into.push(self.name, value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.into.push(self.name, Value::Float(value));
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.into.push(self.name, Value::Bool(value));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut list: S) -> Result<(), S::Error> {
        let mut texts = Vec::new();
        while let Some(Item(item)) = list.next_element()? {
            texts.extend(item.filter(|_| texts.len() < LIST_MAX));
        }
        self.into.push(self.name, Value::List(texts));
        Ok(())
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        if self.depth + 1 < DEPTH_MAX {
            return Object { into: self.into, prefix: &self.name, depth: self.depth + 1 }.visit_map(map);
        }
        while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'a> serde::Deserialize<'a> for Text<'a> {
    fn deserialize<D: Deserializer<'a>>(reader: D) -> Result<Text<'a>, D::Error> {
        struct Read;
        impl<'a> Visitor<'a> for Read {
            type Value = Text<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        reader.deserialize_str(Read)
    }
}

/// An entry of a list: its text, or nothing.
struct Item<'a>(Option<Cow<'a, str>>);

impl<'a> serde::Deserialize<'a> for Item<'a> {
    fn deserialize<D: Deserializer<'a>>(reader: D) -> Result<Item<'a>, D::Error> {
        let mut fields = Fields::default();
        Field { into: &mut fields, name: Cow::Borrowed(""), depth: DEPTH_MAX }.deserialize(reader)?;
        Ok(Item(fields.fields.into_iter().find_map(|(_, value)| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_objects_become_dotted_names() {
        let line = br#"{"a":{"b":{"c":"x"}},"n":[1,"s",{"q":1},["t"]],"big":17493284955047424094,"f":1.5,"t":true,"z":null}"#;
        let fields = Fields::read(line).unwrap();
        assert_eq!(fields.text(&["a.b.c"]), Some("x"));
        assert_eq!(fields.get("n"), Some(&Value::List(vec!["s".into()])));
        assert_eq!(fields.number(&["f"]), Some(1.5));
        assert_eq!(fields.get("z"), None);
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let check = |line: &[u8]| assert_eq!(Fields::read(line), None, "{}", String::from_utf8_lossy(line));
        check(b"{\"a\":1");
        check(b"{\"a\":1} tail");
        check(b"[1]");
        check(b"");
        check(b"{\"a\":\"\xff\"}");
        check(&[b'{'; 4000]);
        check("{\"a\":".repeat(3000).as_bytes());
    }
}
