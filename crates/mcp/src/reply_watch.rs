//! How a reply ends, told from bytes that are only passed on.
//!
//! A stream that is relayed is not parsed; yet a proxy must know whether its result was among what went by: for the record,
//! and because a server that dies may leave a stream that ends like a whole one. Only the head of a message is kept until it
//! says what the message is, and a reply that fits a small bound to look whether it tells of a failed tool.

use memchr::memchr2;

use crate::envelope::{Field, Message, Shape};
use crate::json::{JsonError, MAX_DEPTH, Scanner};

/// Bytes of a message that are looked at to find out what it is. The members before `result`, `error` or `method` are an
/// id and a version.
const HEAD: usize = 1024;
/// Replies up to this size are kept to be read whole.
const WHOLE: usize = 32 * 1024;

/// What a reply says of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A result; of one over 32 KiB it is not known whether the tool failed.
    Result,
    /// A result with `isError`.
    ToolError,
    /// An error.
    Error,
}

/// A body ended without the reply that it owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// Follows the bytes of one HTTP body.
#[derive(Debug)]
pub struct ReplyWatch {
    form: Form,
    /// What is kept of the message that goes by.
    kept: Vec<u8>,
    kind: Kind,
    said: Option<Said>,
    unsure: bool,
    /// The last line ended with CR: a LF that follows belongs to it.
    after_cr: bool,
    last: [u8; 2],
}

/// Where in a body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In a body that is one message.
    Json,
    /// In an event stream, so many bytes into the field name `data:`.
    Name(usize),
    /// In the value of a data line.
    Data,
    /// In a line of no interest.
    Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Undecided,
    Reply(Said),
    /// No reply.
    Other,
    /// Its head does not tell.
    Unsure,
}

const NAME: &[u8] = b"data:";

impl ReplyWatch {
    /// For a body that is one message.
    pub fn json() -> Self {
        Self::new(Form::Json)
    }

    /// For an event stream.
    pub fn events() -> Self {
        Self::new(Form::Name(0))
    }

    fn new(form: Form) -> Self {
        Self {
            form,
            kept: Vec::new(),
            kind: Kind::Undecided,
            said: None,
            unsure: false,
            after_cr: false,
            last: *b"\n\n",
        }
    }

    /// The next bytes of the body.
    pub fn saw(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().skip(bytes.len().saturating_sub(3)).filter(|byte| **byte != b'\r') {
            self.last = [self.last[1], *byte];
        }
        if self.form == Form::Json {
            return self.keep(bytes);
        }
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                rest = behind;
                continue;
            }
            match self.form {
                Form::Name(at) if NAME.get(at) == Some(&byte) => {
                    self.form = if at + 1 == NAME.len() { Form::Data } else { Form::Name(at + 1) };
                    rest = behind;
                    continue;
                }
                // An empty line ends an event.
                Form::Name(0) if matches!(byte, b'\n' | b'\r') => self.end_of_message(),
                Form::Name(_) => self.form = Form::Line,
                Form::Data | Form::Line | Form::Json => {}
            }
            let line_end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            if self.form == Form::Data {
                self.keep(rest.get(..line_end).unwrap_or_default());
            }
            if let Some(end) = rest.get(line_end) {
                self.after_cr = *end == b'\r';
                self.form = Form::Name(0);
            }
            rest = rest.get(line_end + 1..).unwrap_or_default();
        }
    }

    /// The body is over, and ended as such bodies do.
    ///
    /// # Errors
    /// Its reply is missing, or breaks off.
    pub fn end(&mut self) -> Result<Option<Said>, Lost> {
        if self.form == Form::Json {
            self.end_of_message();
            // A body without a length ends like a whole one when its server dies.
            let whole = self.last.iter().rev().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
            return if whole { Ok(self.said) } else { Err(Lost) };
        }
        if self.said.is_some() || self.unsure { Ok(self.said) } else { Err(Lost) }
    }

    /// What has been said so far.
    pub fn said(&self) -> Option<Said> {
        self.said
    }

    /// Whether the bytes so far end between two events, where something may be said in between.
    pub fn between_events(&self) -> bool {
        self.last == *b"\n\n"
    }

    fn end_of_message(&mut self) {
        self.unsure |= self.kind == Kind::Unsure;
        if let Kind::Reply(said) = self.kind {
            self.said = Some(if self.kept.len() <= WHOLE { whole(&self.kept).unwrap_or(said) } else { said });
        }
        self.kept = Vec::new();
        self.kind = Kind::Undecided;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let limit = match self.kind {
            Kind::Other | Kind::Unsure | Kind::Reply(Said::Error) => return,
            // One more, to know that it did not fit.
            Kind::Reply(_) | Kind::Undecided => WHOLE + 1,
        };
        let room = limit.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        if self.kind == Kind::Undecided {
            self.kind = kind_of(&self.kept);
        }
        if matches!(self.kind, Kind::Other | Kind::Unsure) {
            self.kept = Vec::new();
        }
    }
}

/// What the head of a message says that it is.
fn kind_of(message: &[u8]) -> Kind {
    let head = message.get(..message.len().min(HEAD)).unwrap_or_default();
    // A character that the cut went through is not looked at.
    let text = match std::str::from_utf8(head) {
        Ok(_) => head,
        Err(cut) => head.get(..cut.valid_up_to()).unwrap_or_default(),
    };
    let mut kind = Kind::Undecided;
    let Ok(mut scanner) = Scanner::new(text, MAX_DEPTH) else { return Kind::Unsure };
    // The text ends somewhere in the middle: what was found before that counts.
    let _ = scanner.object(|key, scanner| {
        kind = match key.decode(text).as_ref() {
            "result" => Kind::Reply(Said::Result),
            "error" => Kind::Reply(Said::Error),
            "method" | "params" => Kind::Other,
            _ => return scanner.value().map(|_| ()),
        };
        // Known: no need to walk on.
        Err(JsonError::Depth(0))
    });
    if kind == Kind::Undecided && message.len() >= HEAD { Kind::Unsure } else { kind }
}

/// What a message says that is there as a whole.
fn whole(message: &[u8]) -> Option<Said> {
    let message = Message::parse(bytes::Bytes::copy_from_slice(message)).ok()?;
    match message.shape {
        Shape::Error => Some(Said::Error),
        Shape::Result => {
            let failed = message.results().get(Field::IsError).is_some_and(|span| message.raw(span) == b"true");
            Some(if failed { Said::ToolError } else { Said::Result })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"jsonrpc":"2.0","id":"a","result":{"content":[]}}"#;
    const FAILED: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#;
    const ERROR: &str = r#"{"error":{"code":-1,"message":"result"},"id":null,"jsonrpc":"2.0"}"#;
    const PROGRESS: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"result":1}}"#;

    /// However the bytes are cut into pieces.
    fn every_cut(mut watch: impl FnMut() -> ReplyWatch, body: &str) -> (Result<Option<Said>, Lost>, bool) {
        let mut seen = Vec::new();
        for size in [1, 2, 3, 7, 64, usize::MAX] {
            let mut watch = watch();
            body.as_bytes().chunks(size.min(body.len().max(1))).for_each(|piece| watch.saw(piece));
            seen.push((watch.end(), watch.between_events()));
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "{body}: {seen:?}");
        seen[0]
    }

    fn events(messages: &[&str]) -> String {
        messages.iter().map(|message| format!("event: message\ndata: {message}\n\n")).collect()
    }

    #[test]
    fn a_body_of_one_message_says_what_it_is() {
        let said = |body: &str| every_cut(ReplyWatch::json, body).0;
        assert_eq!(said(RESULT), Ok(Some(Said::Result)));
        assert_eq!(said(FAILED), Ok(Some(Said::ToolError)));
        assert_eq!(said(ERROR), Ok(Some(Said::Error)));
        assert_eq!(said(&format!("{RESULT}\r\n")), Ok(Some(Said::Result)));
        assert_eq!(said(PROGRESS), Ok(None));
        for broken in [&RESULT[..RESULT.len() - 3], "", "no JSON"] {
            assert_eq!(said(broken), Err(Lost), "{broken}");
        }
    }

    #[test]
    fn a_stream_says_what_its_reply_was() {
        let said = |body: &str| every_cut(ReplyWatch::events, body).0;
        assert_eq!(said(&events(&[PROGRESS, PROGRESS, RESULT])), Ok(Some(Said::Result)));
        assert_eq!(said(&events(&[PROGRESS, FAILED])), Ok(Some(Said::ToolError)));
        assert_eq!(said(&events(&[ERROR]).replace('\n', "\r\n")), Ok(Some(Said::Error)));
        assert_eq!(said(&format!("data:{RESULT}\n\n")), Ok(Some(Said::Result)));
        let whole = events(&[PROGRESS, RESULT]);
        for broken in [&events(&[PROGRESS]), "", ": hello\n\nid: 1\ndata:\n\n", &whole[..whole.len() - 4]] {
            assert_eq!(said(broken), Err(Lost), "{broken}");
        }
        let lines = RESULT.replace(',', ",\ndata: ");
        assert_eq!(said(&format!("data: {lines}\n\n")), Ok(Some(Said::Result)), "data of several lines");
    }

    #[test]
    fn a_head_that_does_not_tell_is_no_loss() {
        let strange =
            RESULT.replace("{\"jsonrpc", &format!("{{\"_meta\":{{\"a\":\"{}\"}},\"jsonrpc", "x".repeat(HEAD)));
        assert_eq!(every_cut(ReplyWatch::events, &events(&[&strange])).0, Ok(None));
        assert_eq!(every_cut(ReplyWatch::json, &strange).0, Ok(None));
    }

    #[test]
    fn the_place_between_events_is_known() {
        let between = |body: &str| every_cut(ReplyWatch::events, body).1;
        assert!(between("") && between("data: 1\n\n") && between("data: 1\r\n\r\n"));
        assert!(!between("data: 1\n") && !between("data: 1") && !between("data: 1\n\nd"));
    }

    #[test]
    fn large_messages_are_not_kept() {
        let text = "x".repeat(WHOLE);
        let large = RESULT.replace("[]", &format!(r#"["{text}"],"isError":true"#));
        let mut watch = ReplyWatch::events();
        watch.saw(format!("data: {large}").as_bytes());
        assert!(watch.kept.len() <= WHOLE + 1);
        watch.saw(b"\n\n");
        assert_eq!((watch.said(), watch.kept.capacity()), (Some(Said::Result), 0));
        watch.saw(format!("data: {}", PROGRESS.replace('1', &format!("\"{text}\""))).as_bytes());
        assert_eq!(watch.kept.capacity(), 0);
    }
}
