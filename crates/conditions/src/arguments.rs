//! The arguments of a call as a value of CEL, within bounds: what is larger, deeper or ambiguous is not looked at, and a
//! condition that wanted to fails.

use std::collections::HashMap;
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Most bytes of arguments that a condition looks at.
pub const MAX_BYTES: usize = 64 * 1024;
/// How deep their lists and objects may stand inside each other.
pub const MAX_DEPTH: usize = 16;
/// Most values in them, for conditions without loops, with one, and with one inside another: a loop costs about a
/// microsecond for each element.
pub const MAX_ELEMENTS: [usize; 3] = [4096, 1024, 128];

/// A value of CEL.
pub(crate) type Value = Box<dyn Val>;

/// Why arguments are not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// More than [`MAX_BYTES`].
    TooLong,
    /// No JSON, two members of one name, too deep, or too many values.
    Form,
}

/// Reads arguments; absent ones are an empty object. Gives the number of values too.
pub(crate) fn read(raw: Option<&[u8]>) -> Result<(Value, usize), Unreadable> {
    let raw = raw.unwrap_or(b"{}");
    if raw.len() > MAX_BYTES {
        return Err(Unreadable::TooLong);
    }
    let mut elements = 0;
    let mut reader = serde_json::Deserializer::from_slice(raw);
    let value = Reader { depth: 0, elements: &mut elements }.deserialize(&mut reader).map_err(|_| Unreadable::Form)?;
    reader.end().map_err(|_| Unreadable::Form)?;
    Ok((value, elements))
}

/// Builds one value.
struct Reader<'e> {
    depth: usize,
    elements: &'e mut usize,
}

impl Reader<'_> {
    fn below<E: Error>(&mut self) -> Result<Reader<'_>, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("too deep"));
        }
        Ok(Reader { depth: self.depth + 1, elements: self.elements })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.elements += 1;
        if *self.elements > MAX_ELEMENTS[0] {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Box::new(CelInt::from(value)),
            Err(_) => Box::new(CelUInt::from(value)),
        })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list: Vec<Value> = Vec::new();
        while let Some(item) = items.next_element_seed(self.below()?)? {
            list.push(item);
        }
        Ok(Box::new(CelList::from(list)))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut map: HashMap<CelMapKey<'static>, Value> = HashMap::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.below()?)?;
            // Which of two a server takes is its own business, so neither can be decided about.
            if map.insert(CelMapKey::from(name), value).is_some() {
                return Err(A::Error::custom("two members of one name"));
            }
        }
        Ok(Box::new(CelMap::from(map)))
    }
}
