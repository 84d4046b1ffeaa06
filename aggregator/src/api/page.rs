//! One page of a list: sorted, cut, with only the wanted properties. Made where the grid is read, so that only the page
//! is copied out of it.

use std::cmp::Ordering;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roost_registry::Schema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::input::Input;
use super::problem::Problem;
use super::suggest::did_you_mean;
use super::version::Version;

/// Items on a page, unless asked for more or fewer.
const LIMIT: usize = 100;
/// Most items on a page.
const MOST: usize = 1_000;
/// Most items at once in CSV and the like, and in XML-RPC: spreadsheets and old programs don't follow cursors.
const MOST_WHOLE: usize = 100_000;
/// Properties to sort by at once.
const SORTS: usize = 5;
/// Longest cursor looked at.
const CURSOR: usize = 4_096;

/// What can stand in a list: it has a place in the list's own order, and properties.
pub(crate) trait Listed {
    /// Name of its schema.
    const SCHEMA: &'static str;
    /// How the list is sorted unless asked otherwise; absent: in its own order.
    const SORT: Option<&'static str> = None;
    /// Unique within the list; lists are in this order unless sorted.
    fn order(&self) -> Order;
    /// What makes it another version without being shown.
    fn unseen(&self) -> &str {
        ""
    }
    /// `Null`: absent.
    fn property(&self, name: &str) -> Value;
}

/// A place in a list's own order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    Id([u8; 16]),
    Number(u64),
    Text(String),
    /// Newest first: the number turned round, then the id.
    Newest(std::cmp::Reverse<u64>, [u8; 16]),
}

impl Order {
    fn json(&self) -> Value {
        match self {
            Order::Id(id) => json!(u128::from_be_bytes(*id).to_string()),
            Order::Number(number) => json!(number),
            Order::Text(text) => json!(text),
            Order::Newest(number, id) => json!([number.0, u128::from_be_bytes(*id).to_string()]),
        }
    }

    /// The same kind of place as `like`, from a cursor.
    fn parse(value: &Value, like: &Order) -> Option<Order> {
        let id = |value: &Value| Some(value.as_str()?.parse::<u128>().ok()?.to_be_bytes());
        Some(match like {
            Order::Id(_) => Order::Id(id(value)?),
            Order::Number(_) => Order::Number(value.as_u64()?),
            Order::Text(_) => Order::Text(value.as_str()?.to_owned()),
            Order::Newest(..) => Order::Newest(std::cmp::Reverse(value.get(0)?.as_u64()?), id(value.get(1)?)?),
        })
    }
}

/// Which page is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    limit: usize,
    offset: usize,
    after: Option<Vec<Value>>,
    sort: Vec<Sort>,
    /// Properties to show, in this order.
    pub(crate) fields: Vec<&'static str>,
    total: bool,
}

#[derive(Clone, Debug)]
struct Sort {
    property: &'static str,
    down: bool,
}

/// A page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// The wanted properties of each item, in the order of `fields`.
    pub(crate) rows: Vec<Vec<Value>>,
    pub(crate) next: Option<String>,
    pub(crate) total: Option<usize>,
    /// Properties in the order in which a table shows them.
    pub(crate) fields: Vec<&'static str>,
}

impl Wanted {
    /// What the inputs of every list ask for.
    pub(crate) fn of<T: Listed>(input: &Input) -> Result<Self, Problem> {
        let schema = roost_registry::schema(T::SCHEMA)
            .ok_or_else(|| Problem::new("internal", format!("The registry has no schema {}.", T::SCHEMA)))?;
        let format = input.text("format").unwrap_or("json");
        if format == "cbe" && input.text("fields").is_some() {
            return Err(Problem::fault("/fields", "a Common Base Event always has all of them; leave it out"));
        }
        let whole = input.whole || format != "json";
        let most = if whole { MOST_WHOLE } else { MOST };
        let limit = match input.number("limit").map(usize::try_from) {
            None if whole => most,
            None => LIMIT,
            Some(Ok(limit)) if (1..=most).contains(&limit) => limit,
            Some(_) => return Err(Problem::fault("/limit", format!("must be 1 to {most}"))),
        };
        let offset = usize::try_from(input.number("offset").unwrap_or(0)).unwrap_or(usize::MAX);
        let after = input.text("cursor").map(read_cursor).transpose()?;
        let sort = input.text("sort").or(T::SORT).map_or(Ok(Vec::new()), |sort| read_sort(schema, sort))?;
        let fields = match input.text("fields") {
            Some(fields) => {
                fields.split(',').map(|name| named(schema, "/fields", name.trim())).collect::<Result<_, _>>()?
            }
            None => schema.properties.iter().map(|property| property.name).collect(),
        };
        if after.as_ref().is_some_and(|after| after.len() != sort.len() + 1) {
            return Err(Problem::fault("/cursor", "belongs to a list sorted otherwise"));
        }
        if after.is_some() && offset > 0 {
            return Err(Problem::fault("/offset", "a cursor says already where to go on; give one of them"));
        }
        Ok(Self { limit, offset, after, sort, fields, total: input.boolean("total").unwrap_or(false) })
    }

    /// The page of these items.
    pub(crate) fn page<T: Listed>(&self, items: impl Iterator<Item = T>) -> Page {
        let mut all: Vec<(Vec<Value>, Order, T)> = items
            .map(|item| (self.sort.iter().map(|sort| item.property(sort.property)).collect(), item.order(), item))
            .collect();
        let total = self.total.then_some(all.len());
        if let Some((after, order)) = self.after_of(all.first().map(|(_, order, _)| order)) {
            all.retain(|(keys, place, _)| self.compare((keys, place), (after, &order)) == Ordering::Greater);
        }
        let ordered = |one: &(Vec<Value>, Order, T), other: &(Vec<Value>, Order, T)| {
            self.compare((&one.0, &one.1), (&other.0, &other.1))
        };
        let most = self.offset.saturating_add(self.limit);
        let more = all.len() > most;
        if more {
            // Only what stands before the end of the page needs its order.
            all.select_nth_unstable_by(most, ordered);
            all.truncate(most);
        }
        all.sort_unstable_by(ordered);
        all.drain(..self.offset.min(all.len()));
        let next = all.last().filter(|_| more).map(|(keys, order, _)| write_cursor(keys, order));
        let rows = all.iter().map(|(_, _, item)| self.row(item)).collect();
        Page { rows, next, total, fields: self.fields.clone() }
    }

    /// True where the list is wanted in the order of this property, then in its own.
    pub(crate) fn sorted_by(&self, property: &str) -> bool {
        matches!(&self.sort[..], [Sort { property: only, down: false }] if *only == property)
    }

    /// True where the number of all items is wanted too.
    pub(crate) fn counts(&self) -> bool {
        self.total
    }

    /// The text and id of the item that the page begins after, in a list of texts and ids.
    pub(crate) fn after_text(&self) -> Option<(&str, [u8; 16])> {
        let [Value::String(text), id] = self.after.as_deref()? else { return None };
        match Order::parse(id, &Order::Id([0; 16]))? {
            Order::Id(id) => Some((text, id)),
            Order::Number(_) | Order::Text(_) | Order::Newest(..) => None,
        }
    }

    /// The page of items that come in the wanted order, so that no more of them are looked at than needed.
    pub(crate) fn page_of_ordered<T: Listed>(&self, mut items: impl Iterator<Item = T>) -> Page {
        let key = |item: &T| -> (Vec<Value>, Order) {
            (self.sort.iter().map(|sort| item.property(sort.property)).collect(), item.order())
        };
        let mut page = Page { fields: self.fields.clone(), ..Page::default() };
        let (mut seen, mut skip, mut last) = (0, self.offset, None);
        for item in items.by_ref() {
            seen += 1;
            let before = self.after_of(Some(&item.order())).is_some_and(|(after, order)| {
                let (keys, place) = key(&item);
                self.compare((&keys, &place), (after, &order)) != Ordering::Greater
            });
            if before || skip > 0 {
                skip -= usize::from(!before);
                continue;
            }
            if page.rows.len() == self.limit {
                page.next = last.as_ref().map(key).map(|(keys, place)| write_cursor(&keys, &place));
                break;
            }
            page.rows.push(self.row(&item));
            last = Some(item);
        }
        page.total = self.total.then(|| seen + items.count());
        page
    }

    fn row<T: Listed>(&self, item: &T) -> Vec<Value> {
        self.fields.iter().map(|name| item.property(name)).collect()
    }

    fn after_of(&self, like: Option<&Order>) -> Option<(&[Value], Order)> {
        let (order, keys) = self.after.as_deref()?.split_last()?;
        Some((keys, Order::parse(order, like?)?))
    }

    fn compare(&self, one: (&[Value], &Order), other: (&[Value], &Order)) -> Ordering {
        for ((sort, one), other) in self.sort.iter().zip(one.0).zip(other.0) {
            let order = compare(one, other);
            let order = if sort.down { order.reverse() } else { order };
            if order != Ordering::Equal {
                return order;
            }
        }
        one.1.cmp(other.1)
    }
}

/// The item as an object with all its properties; absent ones are left out.
pub(crate) fn show_all<T: Listed>(item: &T) -> Value {
    let properties = roost_registry::schema(T::SCHEMA).map_or(&[][..], |schema| schema.properties);
    let members = properties.iter().map(|property| (property.name.to_owned(), item.property(property.name)));
    Value::Object(members.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

impl Page {
    /// The items as objects; absent properties are left out.
    pub(crate) fn into_items(self) -> Vec<Value> {
        let fields = self.fields;
        let object = |row: Vec<Value>| {
            let members = fields.iter().map(|name| (*name).to_owned()).zip(row);
            Value::Object(members.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        };
        self.rows.into_iter().map(object).collect()
    }
}

/// One item of a page as JSON shows it: absent properties are left out.
struct Item<'a> {
    fields: &'a [&'static str],
    row: &'a [Value],
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields.iter().zip(self.row).filter(|(_, value)| !value.is_null()))
    }
}

impl Serialize for Page {
    /// `{"items": [...], "next": cursor, "total": n}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items: Vec<Item<'_>> = self.rows.iter().map(|row| Item { fields: &self.fields, row }).collect();
        let mut page = serializer.serialize_map(None)?;
        page.serialize_entry("items", &items)?;
        if let Some(next) = &self.next {
            page.serialize_entry("next", next)?;
        }
        if let Some(total) = self.total {
            page.serialize_entry("total", &total)?;
        }
        page.end()
    }
}

/// The version of an item.
pub(crate) fn version<T: Listed>(item: &T) -> Version {
    Version::of(T::SCHEMA, &show_all(item), item.unseen())
}

/// The item with all its properties, and its version.
pub(crate) fn thing<T: Listed>(item: &T) -> (Value, Version) {
    let value = show_all(item);
    let version = Version::of(T::SCHEMA, &value, item.unseen());
    (value, version)
}

/// Absent ones first, then false, true, numbers, texts.
fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one.cmp(other),
        // Whole numbers as they are: a double can't tell sequence numbers apart.
        (Value::Number(one), Value::Number(other)) => match (one.as_u64(), other.as_u64()) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => one.as_f64().unwrap_or(0.0).total_cmp(&other.as_f64().unwrap_or(0.0)),
        },
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (one, other) => rank(one).cmp(&rank(other)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

fn read_sort(schema: &'static Schema, sort: &str) -> Result<Vec<Sort>, Problem> {
    let words: Vec<&str> = sort.split(',').map(str::trim).collect();
    if words.len() > SORTS {
        return Err(Problem::fault("/sort", format!("has more than {SORTS} properties")));
    }
    let one = |word: &str| {
        let (down, name) = word.strip_prefix('-').map_or((false, word), |name| (true, name));
        Ok(Sort { property: named(schema, "/sort", name)?, down })
    };
    words.into_iter().map(one).collect()
}

fn named(schema: &'static Schema, pointer: &str, name: &str) -> Result<&'static str, Problem> {
    schema.property(name).map(|property| property.name).ok_or_else(|| {
        let names: Vec<&str> = schema.properties.iter().map(|property| property.name).collect();
        Problem::fault(pointer, format!("{} has no property {name:?}{}", schema.name, did_you_mean(name, &names)))
    })
}

fn write_cursor(keys: &[Value], order: &Order) -> String {
    let mut all = keys.to_vec();
    all.push(order.json());
    URL_SAFE_NO_PAD.encode(Value::Array(all).to_string())
}

fn read_cursor(text: &str) -> Result<Vec<Value>, Problem> {
    let bytes = if text.len() > CURSOR { None } else { URL_SAFE_NO_PAD.decode(text).ok() };
    let values = bytes.and_then(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).ok());
    values.ok_or_else(|| Problem::fault("/cursor", "is not a cursor of this list; begin again without one"))
}

#[cfg(test)]
mod test {
    use super::super::input::Given;
    use super::*;

    struct Pet(u64);

    impl Listed for Pet {
        const SCHEMA: &'static str = "event";
        fn order(&self) -> Order {
            Order::Number(self.0)
        }
        fn property(&self, name: &str) -> Value {
            match name {
                "seq" => json!(self.0),
                "kind" => json!(if self.0.is_multiple_of(2) { "even" } else { "odd" }),
                _ => Value::Null,
            }
        }
    }

    fn wanted(inputs: &[(&str, &str)]) -> Result<Wanted, Problem> {
        let given = inputs.iter().map(|(name, value)| Given { name: (*name).into(), value: json!(value), place: None });
        let input = Input::check(roost_registry::find("event.list").unwrap(), given.collect(), None)?;
        Wanted::of::<Pet>(&input)
    }

    fn walk(sort: &str) -> Vec<u64> {
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut inputs = vec![("limit", "3"), ("fields", "seq")];
            inputs.extend((!sort.is_empty()).then_some(("sort", sort)));
            inputs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let mut page = wanted(&inputs).unwrap().page((0..10).map(Pet));
            let next = page.next.take();
            seen.extend(page.into_items().iter().map(|item| item["seq"].as_u64().unwrap()));
            let Some(next) = next else { return seen };
            cursor = Some(next);
        }
    }

    #[test]
    fn walking_by_cursor_sees_every_item_once_in_order() {
        assert_eq!(walk(""), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(walk("-seq"), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(walk("-kind,seq"), [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]);
    }

    #[test]
    fn walking_by_offset_sees_every_item_once_in_order() {
        let mut seen = Vec::new();
        for offset in ["0", "4", "8", "12"] {
            let page = wanted(&[("limit", "4"), ("offset", offset), ("total", "true")]).unwrap().page((0..10).map(Pet));
            assert_eq!(page.total, Some(10));
            seen.extend(page.into_items().iter().map(|item| item["seq"].as_u64().unwrap()));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let both = wanted(&[("offset", "1"), ("cursor", "WzFd")]).unwrap_err().sentence();
        assert!(both.contains("one of them"), "{both}");
    }

    #[test]
    fn a_page_has_only_what_was_asked_for() {
        let page = wanted(&[("fields", "kind"), ("total", "true"), ("limit", "1")]).unwrap().page((0..10).map(Pet));
        assert_eq!((page.total, page.into_items()), (Some(10), vec![json!({"kind": "even"})]));
    }

    #[test]
    fn a_wrong_page_is_refused_with_a_reason() {
        for (name, value, reason) in [
            ("limit", "0", "1 to 1000"),
            ("limit", "1001", "1 to 1000"),
            ("sort", "kid", "did you mean \"kind\"?"),
            ("fields", "seq,knd", "did you mean \"kind\"?"),
            ("cursor", "%%%", "not a cursor"),
            ("cursor", "WzEsMl0", "sorted otherwise"),
        ] {
            let text = wanted(&[(name, value)]).unwrap_err().sentence();
            assert!(text.contains(reason), "{name}={value}: {text}");
        }
    }
}
