//! Reads YAML and JSON (which is YAML, but is read faster) into trees that know their places, a piece at a time, so that a list of
//! a million sites never lies in memory whole.
//!
//! Aliases are expanded where they stand. Nesting and the values that aliases give are bounded, so that a
//! small file cannot ask for a large memory.

use super::json;
use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use sitemon_model::tree::{Faults, Key, Node, Place, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Levels of maps and lists within each other.
const DEPTH_MAX: usize = 64;

/// Values that the aliases of one file may give in all. Those of an element that was handed out, and that no
/// later alias can repeat, no longer count.
const ALIASED_MAX: usize = 250_000;

/// A step on the way from the root of a file to a value.
#[derive(Debug, Clone)]
pub enum Step<'s> {
    /// The entry of a map.
    Key(Cow<'s, str>),
    /// The item of a list, counted from 0.
    Index(usize),
}

/// `sites[3].expect`
pub fn path(steps: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(name) => path = sitemon_model::tree::join(&path, name).to_string(),
            Step::Index(index) => drop(write!(path, "[{index}]")),
        }
    }
    path
}

/// The file cannot be read any further; why was noted.
#[derive(Debug)]
pub struct Broken;

/// How a file begins.
#[derive(Debug)]
pub enum Top {
    /// There is nothing in it.
    Empty,
    /// A map, whose keys come next, and where it begins.
    Map(Place),
    /// Something else.
    Other(Node),
}

/// How a list begins that is read item by item.
#[derive(Debug)]
pub enum List {
    /// Items come next.
    Items,
    /// It is an alias, or no list: the whole value.
    Whole(Node),
}

/// A value that an alias may repeat.
#[derive(Debug)]
struct Anchored {
    node: Node,
    values: usize,
    height: usize,
    dollar: bool,
}

/// Where the parts of a text come from, one after the other.
enum Events<'s> {
    Json(json::Events<'s>),
    Yaml(Box<Parser<'s, StrInput<'s>>>),
}

/// Reads one file from its beginning to its end.
pub struct Reader<'s> {
    events: Events<'s>,
    source: u32,
    /// By the number that the parser gives them. `None`: not read to its end yet, or not kept.
    anchors: HashMap<usize, Option<Anchored>>,
    /// Values that aliases gave so far, as far as they count.
    aliased: usize,
    /// The way to what is being read.
    steps: Vec<Step<'s>>,
    /// Names of the entries of the top map, and where they stand.
    top: HashMap<String, Place>,
    /// Whether a scalar since the flag was last taken has a `$`.
    dollar: bool,
}

impl<'s> Reader<'s> {
    /// A reader of a text; `source` goes into every place.
    pub fn new(text: &'s str, source: u32) -> Self {
        let yaml = || {
            let options = granit_parser::options! { emit_comments: false };
            Events::Yaml(Box::new(Parser::new_from_str_with_options(text, options)))
        };
        Self {
            events: json::Events::of(text).map_or_else(yaml, Events::Json),
            source,
            anchors: HashMap::new(),
            aliased: 0,
            steps: Vec::new(),
            top: HashMap::new(),
            dollar: false,
        }
    }

    /// Reads the beginning.
    pub fn begin(&mut self, faults: &mut Faults) -> Result<Top, Broken> {
        loop {
            let (event, span) = self.event(faults)?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(Top::Empty),
                Event::MappingStart(_, anchor, _) => {
                    self.anchors.insert(anchor, None);
                    return Ok(Top::Map(self.place(span.start)));
                }
                event => {
                    let node = self.node_of(event, span, 0, faults)?;
                    return Ok(if node.is_null() { Top::Empty } else { Top::Other(node) });
                }
            }
        }
    }

    /// The next key of the top map; its value must be read next, by [`Self::value`], [`Self::skip`] or
    /// [`Self::list`]. A key that stands there twice is noted, and its value left out.
    pub fn key(&mut self, faults: &mut Faults) -> Result<Option<Key>, Broken> {
        loop {
            let (event, span) = self.event(faults)?;
            if matches!(event, Event::MappingEnd) {
                return Ok(None);
            }
            let place = self.place(span.start);
            let Some((name, _)) = self.key_of(event, span, faults)? else {
                self.skip(faults)?;
                continue;
            };
            if let Some(first) = self.top.get(&*name) {
                self.duplicate(&name, place, *first, faults);
                self.skip(faults)?;
                continue;
            }
            self.top.insert(name.to_string(), place);
            self.steps.clear();
            self.steps.push(Step::Key(name.clone()));
            return Ok(Some(Key { name: name.into(), place }));
        }
    }

    /// The value of the key that was read last.
    pub fn value(&mut self, faults: &mut Faults) -> Result<Node, Broken> {
        let (event, span) = self.event(faults)?;
        self.node_of(event, span, 1, faults)
    }

    /// Leaves a value out, but for what later aliases may repeat of it.
    pub fn skip(&mut self, faults: &mut Faults) -> Result<(), Broken> {
        let mut open = 0usize;
        loop {
            let (event, span) = self.event(faults)?;
            if event.anchor_id().is_some() {
                // Only what has a name of its own is kept, so the lists and maps around it are passed by.
                self.node_of(event, span, open, faults)?;
            } else {
                match event {
                    Event::MappingStart(..) | Event::SequenceStart(..) => open += 1,
                    Event::MappingEnd | Event::SequenceEnd => open -= 1,
                    _ => {}
                }
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Begins a list whose items are read one by one with [`Self::item`].
    pub fn list(&mut self, faults: &mut Faults) -> Result<List, Broken> {
        let (event, span) = self.event(faults)?;
        if let Event::SequenceStart(_, anchor, _) = event {
            self.anchors.insert(anchor, None);
            self.steps.push(Step::Index(0));
            return Ok(List::Items);
        }
        self.node_of(event, span, 1, faults).map(List::Whole)
    }

    /// The next item of the list that was begun.
    pub fn item(&mut self, index: usize, faults: &mut Faults) -> Result<Option<Node>, Broken> {
        let (event, span) = self.event(faults)?;
        if matches!(event, Event::SequenceEnd) {
            self.steps.pop();
            return Ok(None);
        }
        if let Some(last) = self.steps.last_mut() {
            *last = Step::Index(index);
        }
        let (anchors, aliased) = (self.anchors.len(), self.aliased);
        let node = self.node_of(event, span, 2, faults)?;
        if self.anchors.len() == anchors {
            self.aliased = aliased;
        }
        Ok(Some(node))
    }

    /// What comes after the top value must be the end.
    pub fn end(&mut self, faults: &mut Faults) -> Result<(), Broken> {
        loop {
            let (event, span) = self.event(faults)?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(..) => {
                    faults.error(self.place(span.start), "", "a second document begins, expected one in the file");
                    return Err(Broken);
                }
                _ => {}
            }
        }
    }

    /// Whether a scalar that was read since the last call may hold a variable.
    pub fn take_dollar(&mut self) -> bool {
        std::mem::take(&mut self.dollar)
    }

    fn event(&mut self, faults: &mut Faults) -> Result<(Event<'s>, Span), Broken> {
        let event = match &mut self.events {
            Events::Json(events) => return Ok(events.next()),
            Events::Yaml(parser) => parser.next_event(),
        };
        match event {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let place = self.place(*error.marker());
                faults.error(place, "", format!("cannot be read as YAML or JSON: {}", error.info()));
                Err(Broken)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn place(&self, marker: Marker) -> Place {
        Place { source: self.source, line: marker.line() as u32, column: marker.col() as u32 + 1 }
    }

    fn path(&self) -> String {
        path(&self.steps)
    }

    fn duplicate(&self, name: &str, place: Place, first: Place, faults: &mut Faults) {
        let message = format!("duplicate key `{name}`, first in line {} column {}", first.line, first.column);
        faults.error(place, self.path(), message);
    }

    /// The name of a key, and whether it was written plainly; `None` where it is no text, which is noted.
    fn key_of(
        &mut self,
        event: Event<'s>,
        span: Span,
        faults: &mut Faults,
    ) -> Result<Option<(Cow<'s, str>, bool)>, Broken> {
        let place = self.place(span.start);
        match event {
            Event::Scalar(text, style, anchor, _) => {
                if anchor != 0 {
                    let node = self.scalar(text.clone(), style, None, place, faults);
                    self.keep(anchor, &node, false);
                }
                Ok(Some((text, style == ScalarStyle::Plain)))
            }
            Event::Alias(anchor) => {
                if let Some(Some(Anchored { node: Node { value: Value::Scalar { text, .. }, .. }, .. })) =
                    self.anchors.get(&anchor)
                {
                    return Ok(Some((Cow::Owned(text.to_string()), false)));
                }
                faults.error(place, self.path(), "expected a text as key");
                Ok(None)
            }
            event => {
                faults.error(place, self.path(), "expected a text as key");
                self.node_of(event, span, 0, faults)?;
                Ok(None)
            }
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'s, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        place: Place,
        faults: &mut Faults,
    ) -> Node {
        self.dollar |= text.contains('$');
        let mut quoted = style != ScalarStyle::Plain;
        if let Some(tag) = tag {
            quoted |= tag.core_suffix() == Some("str") || tag.original() == "!";
            self.check_tag(Some(tag), place, faults);
        }
        Node { value: Value::Scalar { text: text.into(), quoted }, place, secret: false }
    }

    fn check_tag(&self, tag: Option<&Tag>, place: Place, faults: &mut Faults) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema() && tag.original() != "!") {
            faults.error(
                place,
                self.path(),
                format!("unknown tag `{}`, expected a value without a tag", tag.original()),
            );
        }
    }

    fn keep(&mut self, anchor: usize, node: &Node, dollar: bool) {
        if anchor != 0 {
            let (values, height) = measure(node);
            self.anchors.insert(anchor, Some(Anchored { node: node.clone(), values, height, dollar }));
        }
    }

    /// The whole value that begins with this event; `depth` maps and lists are around it.
    fn node_of(&mut self, event: Event<'s>, span: Span, depth: usize, faults: &mut Faults) -> Result<Node, Broken> {
        let place = self.place(span.start);
        let too_deep = |reader: &Self, faults: &mut Faults| {
            let message = format!("nested deeper than {DEPTH_MAX} levels, the bound");
            faults.error(place, reader.path(), message);
            Broken
        };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(text, style, tag.as_deref(), place, faults);
                self.keep(anchor, &node, true);
                Ok(node)
            }
            Event::Alias(anchor) => {
                let Some(Some(anchored)) = self.anchors.get(&anchor) else {
                    faults.error(
                        place,
                        self.path(),
                        "the alias stands within what it repeats, or repeats a whole list of sites",
                    );
                    return Err(Broken);
                };
                if depth + anchored.height > DEPTH_MAX {
                    return Err(too_deep(self, faults));
                }
                self.aliased += anchored.values;
                if self.aliased > ALIASED_MAX {
                    let message = format!("aliases expand to more than {ALIASED_MAX} values, the bound");
                    faults.error(place, self.path(), message);
                    return Err(Broken);
                }
                self.dollar |= anchored.dollar;
                Ok(anchored.node.clone())
            }
            Event::SequenceStart(_, anchor, tag) => {
                if depth >= DEPTH_MAX {
                    return Err(too_deep(self, faults));
                }
                self.check_tag(tag.as_deref(), place, faults);
                let before = std::mem::take(&mut self.dollar);
                if anchor != 0 {
                    self.anchors.insert(anchor, None);
                }
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.event(faults)?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    self.steps.push(Step::Index(items.len()));
                    items.push(self.node_of(event, span, depth + 1, faults)?);
                    self.steps.pop();
                }
                let node = Node { value: Value::List(items), place, secret: false };
                self.keep(anchor, &node, self.dollar);
                self.dollar |= before;
                Ok(node)
            }
            Event::MappingStart(_, anchor, tag) => {
                if depth >= DEPTH_MAX {
                    return Err(too_deep(self, faults));
                }
                self.check_tag(tag.as_deref(), place, faults);
                let before = std::mem::take(&mut self.dollar);
                if anchor != 0 {
                    self.anchors.insert(anchor, None);
                }
                let entries = self.entries(depth, faults)?;
                let node = Node { value: Value::Map(entries), place, secret: false };
                self.keep(anchor, &node, self.dollar);
                self.dollar |= before;
                Ok(node)
            }
            _ => {
                faults.error(place, self.path(), "cannot be read as YAML or JSON: a value is missing");
                Err(Broken)
            }
        }
    }

    /// The entries of a map up to its end, those of merge keys (`<<`) behind its own.
    fn entries(&mut self, depth: usize, faults: &mut Faults) -> Result<Vec<(Key, Node)>, Broken> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        // With few entries it is quicker to look through them than to hash.
        let mut seen: HashSet<Box<str>> = HashSet::new();
        loop {
            let (event, span) = self.event(faults)?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let place = self.place(span.start);
            let Some((name, plain)) = self.key_of(event, span, faults)? else {
                self.skip(faults)?;
                continue;
            };
            if plain && name == "<<" {
                let (event, span) = self.event(faults)?;
                let node = self.node_of(event, span, depth + 1, faults)?;
                match node.value {
                    Value::List(items) => merged.extend(items),
                    _ => merged.push(node),
                }
                continue;
            }
            if entries.len() == 32 {
                seen.extend(entries.iter().map(|(key, _)| key.name.clone()));
            }
            let known = if entries.len() < 32 {
                entries.iter().any(|(key, _)| *key.name == *name)
            } else {
                !seen.insert((&*name).into())
            };
            if known {
                let first = entries.iter().find(|(key, _)| *key.name == *name).map_or(place, |(key, _)| key.place);
                self.duplicate(&name, place, first, faults);
                self.skip(faults)?;
                continue;
            }
            self.steps.push(Step::Key(name.clone()));
            let (event, span) = self.event(faults)?;
            let node = self.node_of(event, span, depth + 1, faults)?;
            self.steps.pop();
            entries.push((Key { name: name.into(), place }, node));
        }
        for node in merged {
            let place = node.place;
            let Value::Map(others) = node.value else {
                faults.error(place, self.path(), "is no map, expected one, or a list of them, at the merge key `<<`");
                continue;
            };
            let mut names: HashSet<Box<str>> = entries.iter().map(|(key, _)| key.name.clone()).collect();
            for (key, node) in others {
                if names.insert(key.name.clone()) {
                    entries.push((key, node));
                }
            }
        }
        Ok(entries)
    }
}

/// How many values there are in a tree, itself included (a long text counts for several), and how many levels
/// of maps and lists.
fn measure(node: &Node) -> (usize, usize) {
    let children: &mut dyn Iterator<Item = &Node> = match &node.value {
        Value::Scalar { text, .. } => return (1 + text.len() / 64, 0),
        Value::List(items) => &mut items.iter(),
        Value::Map(entries) => &mut entries.iter().map(|(_, node)| node),
    };
    let (values, height) =
        children.map(measure).fold((1, 0), |(all, high), (values, height)| (all + values, high.max(height)));
    (values, height + 1)
}
