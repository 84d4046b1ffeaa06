//! Reading a call, from a pull parser and within bounds: no document type, no entities but XML's own, depth at most 32,
//! no member twice. What is wrong is told by its place, never by repeating the request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};
use serde_json::{Map, Number, Value};

use super::Fault;

/// Values within values.
const DEPTH: usize = 32;
/// Longest method name looked at.
const METHOD: usize = 128;
/// How much of the text is searched for the name of its encoding.
const DECLARATION: usize = 200;

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) params: Vec<Value>,
}

/// The text of a body: UTF-8, or Latin-1 where the XML or the header says so.
pub(super) fn text(bytes: &[u8], content_type: &str) -> Result<String, Fault> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(DECLARATION)]).to_ascii_lowercase();
    let declared = head.split_once("encoding").and_then(|(_, rest)| rest.split(['"', '\'']).nth(1).map(str::to_owned));
    let header = content_type.to_ascii_lowercase();
    let header = header.split_once("charset=").map(|(_, name)| name.trim_matches(['"', ' ']).to_owned());
    // RFC 7303: the header wins over the declaration.
    match header.or(declared).as_deref() {
        Some("iso-8859-1" | "latin1" | "latin-1") => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Some("utf-8" | "utf8" | "us-ascii") | None => {
            let text = std::str::from_utf8(bytes).map_err(|_| unreadable("the text is not UTF-8"))?;
            Ok(text.trim_start_matches('\u{feff}').to_owned())
        }
        Some(_) => Err(Fault::new(-32701, "bad_request: only UTF-8 and ISO-8859-1 are read.")),
    }
}

/// The call in a text.
pub(super) fn call(text: &str) -> Result<Call, Fault> {
    let mut parser = Parser { reader: Reader::from_str(text), peeked: None };
    parser.opened("methodCall")?;
    parser.opened("methodName")?;
    let method = parser.text()?.trim().to_owned();
    if method.is_empty() || method.len() > METHOD {
        return Err(Fault::new(-32600, "bad_request: the method's name is empty or too long."));
    }
    let mut params = Vec::new();
    if let Token::Open(name) = parser.next_tag()? {
        expect(&name, "params")?;
        while let Token::Open(name) = parser.next_tag()? {
            expect(&name, "param")?;
            parser.opened("value")?;
            params.push(parser.value(1)?);
            parser.closed()?;
        }
        parser.closed()?;
    }
    match parser.next_tag()? {
        Token::End => Ok(Call { method, params }),
        Token::Open(_) | Token::Close | Token::Text(_) => Err(unreadable("something follows the call")),
    }
}

enum Token {
    Open(String),
    Close,
    Text(String),
    End,
}

struct Parser<'a> {
    reader: Reader<&'a [u8]>,
    peeked: Option<Token>,
}

fn unreadable(why: &str) -> Fault {
    Fault::new(-32700, format!("bad_request: the request is not an XML-RPC call: {why}."))
}

fn expect(name: &str, wanted: &str) -> Result<(), Fault> {
    if name == wanted { Ok(()) } else { Err(unreadable(&format!("<{wanted}> is missing"))) }
}

impl Parser<'_> {
    fn wrong(&self, why: &str) -> Fault {
        unreadable(&format!("{why} near byte {}", self.reader.buffer_position()))
    }

    /// Comments and processing instructions are passed over; a document type is not.
    fn token(&mut self) -> Result<Token, Fault> {
        if let Some(token) = self.peeked.take() {
            return Ok(token);
        }
        loop {
            let event = self.reader.read_event().map_err(|_| self.wrong("the XML is broken"))?;
            return match event {
                Event::Start(tag) => Ok(Token::Open(tag.name().as_ref().to_owned())),
                Event::Empty(tag) => {
                    self.peeked = Some(Token::Close);
                    Ok(Token::Open(tag.name().as_ref().to_owned()))
                }
                Event::End(_) => Ok(Token::Close),
                Event::Text(text) => Ok(Token::Text((*text).to_owned())),
                Event::CData(text) => Ok(Token::Text((*text).to_owned())),
                Event::GeneralRef(reference) => Ok(Token::Text(self.reference(&reference)?)),
                Event::Eof => Ok(Token::End),
                Event::DocType(_) => Err(self.wrong("a document type is not taken")),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => continue,
            };
        }
    }

    /// The five entities of XML itself, and characters by number.
    fn reference(&self, reference: &BytesRef<'_>) -> Result<String, Fault> {
        let wrong = || self.wrong("an entity is not known");
        if let Some(letter) = reference.resolve_char_ref().map_err(|_| wrong())? {
            return Ok(letter.to_string());
        }
        let letter = match &**reference {
            "lt" => "<",
            "gt" => ">",
            "amp" => "&",
            "quot" => "\"",
            "apos" => "'",
            _ => return Err(wrong()),
        };
        Ok(letter.to_owned())
    }

    /// The next tag; only blanks may stand before it.
    fn next_tag(&mut self) -> Result<Token, Fault> {
        loop {
            match self.token()? {
                Token::Text(text) if text.trim().is_empty() => {}
                Token::Text(_) => return Err(self.wrong("text stands where a tag should")),
                token @ (Token::Open(_) | Token::Close | Token::End) => return Ok(token),
            }
        }
    }

    fn opened(&mut self, wanted: &str) -> Result<(), Fault> {
        match self.next_tag()? {
            Token::Open(name) => expect(&name, wanted),
            Token::Close | Token::Text(_) | Token::End => Err(self.wrong(&format!("<{wanted}> is missing"))),
        }
    }

    fn closed(&mut self) -> Result<(), Fault> {
        match self.next_tag()? {
            Token::Close => Ok(()),
            Token::Open(_) | Token::Text(_) | Token::End => Err(self.wrong("something is left over")),
        }
    }

    /// Text up to the end of the element it stands in.
    fn text(&mut self) -> Result<String, Fault> {
        let mut all = String::new();
        loop {
            match self.token()? {
                Token::Text(text) => all.push_str(&text),
                Token::Close => return Ok(all),
                Token::Open(_) | Token::End => return Err(self.wrong("a tag stands where text should")),
            }
        }
    }

    /// After `<value>`, up to and with its end. Without a type it is a string.
    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > DEPTH {
            return Err(self.wrong(&format!("values are nested deeper than {DEPTH}")));
        }
        let mut untyped = String::new();
        loop {
            match self.token()? {
                Token::Text(text) => untyped.push_str(&text),
                Token::Close => return Ok(Value::String(untyped)),
                Token::Open(_) if !untyped.trim().is_empty() => return Err(self.wrong("text stands beside a type")),
                Token::Open(kind) => {
                    let value = self.typed(&kind, depth)?;
                    self.closed()?;
                    return Ok(value);
                }
                Token::End => return Err(self.wrong("a value does not end")),
            }
        }
    }

    /// After `<kind>`, up to and with its end.
    fn typed(&mut self, kind: &str, depth: usize) -> Result<Value, Fault> {
        match kind {
            "struct" => return self.members(depth),
            "array" => return self.items(depth),
            _ => {}
        }
        let text = self.text()?;
        let word = text.trim();
        let value = match kind {
            "string" | "dateTime.iso8601" => Some(Value::String(text)),
            "i4" | "int" | "i1" | "i2" | "i8" | "ex:i8" => word.parse::<i64>().ok().map(Value::from),
            "double" => word.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number),
            "boolean" => match word {
                "1" | "true" => Some(Value::Bool(true)),
                "0" | "false" => Some(Value::Bool(false)),
                _ => None,
            },
            "nil" | "ex:nil" => Some(Value::Null),
            "base64" => decoded(&text).map(Value::String),
            _ => return Err(self.wrong("a type is not known")),
        };
        value.ok_or_else(|| self.wrong("a value does not fit its type"))
    }

    fn members(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut members = Map::new();
        while let Token::Open(tag) = self.next_tag()? {
            expect(&tag, "member")?;
            self.opened("name")?;
            let name = self.text()?;
            self.opened("value")?;
            let value = self.value(depth + 1)?;
            self.closed()?;
            if members.contains_key(&name) {
                return Err(self.wrong("a member stands twice in a struct"));
            }
            // Nil is "not given".
            if !value.is_null() {
                members.insert(name, value);
            }
        }
        Ok(Value::Object(members))
    }

    fn items(&mut self, depth: usize) -> Result<Value, Fault> {
        self.opened("data")?;
        let mut items = Vec::new();
        while let Token::Open(tag) = self.next_tag()? {
            expect(&tag, "value")?;
            items.push(self.value(depth + 1)?);
        }
        self.closed()?;
        Ok(Value::Array(items))
    }
}

/// Some clients send text that is not ASCII so.
fn decoded(text: &str) -> Option<String> {
    let letters: String = text.split_ascii_whitespace().collect();
    String::from_utf8(STANDARD.decode(letters).ok()?).ok()
}

#[cfg(test)]
mod test {
    use serde_json::json;

    use super::*;

    fn param(xml: &str) -> Result<Value, String> {
        let xml = format!(
            "<?xml version='1.0'?><methodCall><methodName>m</methodName><params><param>{xml}</param></params></methodCall>"
        );
        call(&xml).map(|call| call.params[0].clone()).map_err(|fault| format!("{} {}", fault.code, fault.text))
    }

    #[test]
    fn what_clients_send_is_read() {
        for (xml, value) in [
            ("<value>plain &lt;&#233;&gt;</value>", json!("plain <é>")),
            ("<value/>", json!("")),
            ("<value><string/></value>", json!("")),
            ("<value>\n <int> 2 </int>\n</value>", json!(2)),
            ("<value><i8>9007199254740993</i8></value>", json!(9_007_199_254_740_993_u64)),
            ("<value><boolean>1</boolean></value>", json!(true)),
            ("<value><double>1.5</double></value>", json!(1.5)),
            ("<value><base64>w6k=</base64></value>", json!("é")),
            ("<value><array><data><value>a</value><value><nil/></value></data></array></value>", json!(["a", null])),
            (
                "<value><struct><member><name>a</name><value><i4>1</i4></value></member></struct></value>",
                json!({"a": 1}),
            ),
            ("<value><![CDATA[<x>]]></value>", json!("<x>")),
        ] {
            assert_eq!(param(xml), Ok(value), "{xml}");
        }
    }

    #[test]
    fn abuse_is_refused_without_repeating_it() {
        let deep = format!("{}x{}", "<value><array><data>".repeat(5_000), "</data></array></value>".repeat(5_000));
        let twice = "<value><struct><member><name>a</name><value>1</value></member><member><name>a</name><value>2</value></member></struct></value>";
        for (xml, reason) in [
            (deep.as_str(), "nested deeper than 32"),
            (twice, "twice"),
            ("<value><int>99999999999999999999999999</int></value>", "does not fit its type"),
            ("<value><int>1e3</int></value>", "does not fit its type"),
            ("<value><double>inf</double></value>", "does not fit its type"),
            ("<value>&secret;</value>", "entity is not known"),
            ("<value><frob>canary</frob></value>", "type is not known"),
            ("<value><int>1</int>canary</value>", "text stands where"),
            ("<value><int>1</value>", "broken"),
        ] {
            let text = param(xml).unwrap_err();
            assert!(text.contains(reason), "{text}");
            assert!(!text.contains("canary") && text.len() < 200, "{text}");
        }
    }

    #[test]
    fn a_document_type_is_refused_before_any_entity_counts() {
        let bomb = "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><methodCall><methodName>&b;</methodName></methodCall>";
        assert!(call(bomb).unwrap_err().text.contains("document type"));
        let outside = "<!DOCTYPE x SYSTEM 'file:///etc/passwd'><methodCall><methodName>m</methodName></methodCall>";
        assert!(call(outside).unwrap_err().text.contains("document type"));
    }

    #[test]
    fn a_million_open_tags_cost_neither_stack_nor_time() {
        let xml = format!("<methodCall><methodName>m</methodName><params><param>{}", "<value>".repeat(150_000));
        assert!(call(&xml).is_err());
        assert!(call(&"<a>".repeat(300_000)).is_err());
        assert!(call("").is_err());
    }

    #[test]
    fn latin_1_is_read_where_it_is_declared() {
        let declared = b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>";
        assert!(text(declared, "text/xml").unwrap().contains('é'));
        assert!(text(b"\xe9", "text/xml; charset=ISO-8859-1").unwrap().contains('é'));
        assert_eq!(text(b"\xe9", "text/xml").unwrap_err().code, -32700);
        assert_eq!(text(b"x", "text/xml; charset=utf-16").unwrap_err().code, -32701);
    }
}
