//! Reads JSON as the events that the parser of YAML would give, in a tenth of the time: lists of many sites are written
//! by programs, and programs write JSON.

use granit_parser::{Event, Marker, ScalarStyle, Span, StructureStyle};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The events of a text.
#[derive(Debug)]
pub struct Events<'s> {
    text: &'s str,
    /// The next byte.
    at: usize,
    /// The line in which it stands, counted from 1, and where that begins.
    line: usize,
    line_start: usize,
}

impl<'s> Events<'s> {
    /// The events of a text; `None` where it must be read as YAML: because it is no JSON, or has what the two do not
    /// take for the same (letters beyond ASCII in columns and escapes, other ends of lines).
    pub fn of(text: &'s str) -> Option<Self> {
        let begins = text.trim_ascii_start().starts_with(['{', '[']);
        let plain = begins && text.bytes().all(|byte| byte < 0x7f && byte != b'\r') && !text.contains("\\u");
        (plain && serde_json::from_str::<&RawValue>(text).is_ok()).then_some(Self {
            text,
            at: 0,
            line: 1,
            line_start: 0,
        })
    }

    /// The next event, and where it begins. Of what is known to be JSON, commas and colons say nothing that its other
    /// parts do not.
    pub fn next(&mut self) -> (Event<'s>, Span) {
        let bytes = self.text.as_bytes();
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b',' | b':')) = bytes.get(self.at) {
            self.at += 1;
            if *byte == b'\n' {
                (self.line, self.line_start) = (self.line + 1, self.at);
            }
        }
        let begin = self.at;
        let span = Span::empty(Marker::new(begin, self.line, begin - self.line_start));
        self.at += 1;
        let event = match bytes.get(begin) {
            None => Event::StreamEnd,
            Some(b'{') => Event::MappingStart(StructureStyle::Flow, 0, None),
            Some(b'}') => Event::MappingEnd,
            Some(b'[') => Event::SequenceStart(StructureStyle::Flow, 0, None),
            Some(b']') => Event::SequenceEnd,
            Some(b'"') => Event::Scalar(self.quoted(begin), ScalarStyle::DoubleQuoted, 0, None),
            Some(_) => {
                let rest = &bytes[begin..];
                let length =
                    rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
                self.at = begin + length.max(1);
                Event::Scalar(Cow::Borrowed(&self.text[begin..self.at]), ScalarStyle::Plain, 0, None)
            }
        };
        (event, span)
    }

    /// The text whose first quote stands at `begin`.
    fn quoted(&mut self, begin: usize) -> Cow<'s, str> {
        let bytes = self.text.as_bytes();
        let mut escapes = false;
        while let Some(byte) = bytes.get(self.at).filter(|byte| **byte != b'"') {
            escapes |= *byte == b'\\';
            self.at += if *byte == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        let inside = &self.text[begin + 1..self.at - 1];
        let unescaped = escapes.then(|| serde_json::from_str(&self.text[begin..self.at]).ok()).flatten();
        unescaped.map_or(Cow::Borrowed(inside), Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granit_parser::Parser;
    use proptest::prelude::*;
    use serde_json::Value;

    /// The events of a text with the places where they begin, without those of the stream and its documents.
    fn told<'s>(mut next: impl FnMut() -> (Event<'s>, Span)) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            match next() {
                (Event::StreamEnd, _) => return told,
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                (event, span) => told.push(format!("{event:?} {}:{}", span.start.line(), span.start.col())),
            }
        }
    }

    #[track_caller]
    fn check(text: &str) {
        let mut json = Events::of(text).expect("JSON");
        let mut yaml = Parser::new_from_str(text);
        let yaml = told(|| yaml.next_event().map_or((Event::StreamEnd, Span::default()), |event| event.expect("YAML")));
        assert_eq!(told(|| json.next()), yaml, "{text}");
    }

    #[test]
    fn the_events_are_those_of_yaml() {
        check("[]");
        check("\n {\"a\": 1,\n  \"b\":[true,null,-1.5e+3 , \"x\\ny\\\\\"], \"\": {}, \"<<\": \"#\"}\n");
        check(r#"[{"name": "a, b: {c}", "url": "http:\/\/a.example/"}, "\"", "\\"]"#);
    }

    #[test]
    fn what_may_be_otherwise_in_yaml_is_left_to_it() {
        for text in ["", "sites: []", "{a: 1}", "[1] 2", "[\"é\"]", "[\"\\u00e9\"]", "[1,\r\n2]", "[\"\u{7f}\"]", "7"]
        {
            assert!(Events::of(text).is_none(), "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ -~\t\n]{0,12}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{0,6}", inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn so_they_are_for_any_value(value in prop::collection::vec(value(), 0..4)) {
            let value = Value::from(value);
            prop_assume!(!value.to_string().contains("\\u"));
            check(&value.to_string());
            check(&format!("{value:#}"));
        }
    }
}
