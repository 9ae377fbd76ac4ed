//! Follows a body as it goes by, so that its end is known; what is passed on is what was read.

use crate::request::Framing;

/// Bytes of a line between chunks at most, and of all trailers.
const MAX_LINE: usize = 4096;

/// A body that does not follow its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body are malformed")]
pub struct BadBody;

/// Where in a body we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    at: At,
    /// Chunk extensions and trailers are let through; replies have them, and nobody smuggles with them there.
    lenient: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Done,
    /// Bytes left of a body with a length.
    Fixed(u64),
    Endless,
    /// In the line with a chunk's length: what it says so far, its digits, whether an extension has begun, its bytes.
    Size {
        size: u64,
        digits: u8,
        extension: bool,
        line: usize,
    },
    /// The LF that must follow.
    SizeEnd(u64),
    /// Bytes left of a chunk.
    Data(u64),
    /// CR and LF after a chunk.
    DataCr,
    DataLf,
    /// In the trailers: bytes of the line so far, bytes of all.
    Trailer {
        line: usize,
        all: usize,
    },
    TrailerLf {
        line: usize,
        all: usize,
    },
}

impl Body {
    /// Of a request: nothing but sizes and data.
    pub fn strict(framing: Framing) -> Body {
        Body { at: At::of(framing), lenient: false }
    }

    /// Of a reply.
    pub fn lenient(framing: Framing) -> Body {
        Body { at: At::of(framing), lenient: true }
    }

    /// Whether the body is over.
    pub fn done(&self) -> bool {
        self.at == At::Done
    }

    /// Whether the connection's end is the body's.
    pub fn ends_with_connection(&self) -> bool {
        self.at == At::Endless
    }

    /// Takes note of what comes next: how many of these bytes belong to the body. Fewer than all: it is over.
    ///
    /// # Errors
    /// [`BadBody`].
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadBody> {
        self.advance_telling(bytes, |_| {})
    }

    /// The same; `data` hears what is said, without what is between.
    ///
    /// # Errors
    /// [`BadBody`].
    pub fn advance_telling(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadBody> {
        let mut used = 0;
        while used < bytes.len() && !self.done() {
            let rest = bytes.get(used..).unwrap_or_default();
            let is_data = matches!(self.at, At::Fixed(_) | At::Endless | At::Data(_));
            let step = self.step(rest)?;
            if is_data {
                data(rest.get(..step).unwrap_or_default());
            }
            used += step;
        }
        Ok(used)
    }

    /// One run of data, or one byte of what is between.
    fn step(&mut self, rest: &[u8]) -> Result<usize, BadBody> {
        let run = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        match self.at {
            At::Endless => return Ok(rest.len()),
            At::Fixed(left) => {
                let taken = run(left);
                let left = left - taken as u64;
                self.at = if left == 0 { At::Done } else { At::Fixed(left) };
                return Ok(taken);
            }
            At::Data(left) => {
                let taken = run(left);
                let left = left - taken as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
                return Ok(taken);
            }
            _ => {}
        }
        let Some(byte) = rest.first() else { return Ok(0) };
        self.at = self.between(*byte)?;
        Ok(1)
    }

    fn between(&self, byte: u8) -> Result<At, BadBody> {
        match (&self.at, byte) {
            (At::Size { size, digits, .. }, b'\r') if *digits > 0 => Ok(At::SizeEnd(*size)),
            (At::Size { size, digits, extension, line }, byte) => self.size(*size, *digits, *extension, *line, byte),
            (At::SizeEnd(0), b'\n') => Ok(At::Trailer { line: 0, all: 0 }),
            (At::SizeEnd(size), b'\n') => Ok(At::Data(*size)),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::size()),
            (At::Trailer { line, all }, b'\r') => Ok(At::TrailerLf { line: *line, all: *all }),
            (At::Trailer { line, all }, byte) if self.lenient && byte != b'\n' && *all < MAX_LINE => {
                Ok(At::Trailer { line: line + 1, all: all + 1 })
            }
            (At::TrailerLf { line: 0, .. }, b'\n') => Ok(At::Done),
            (At::TrailerLf { all, .. }, b'\n') => Ok(At::Trailer { line: 0, all: *all }),
            _ => Err(BadBody),
        }
    }

    fn size(&self, size: u64, digits: u8, extension: bool, line: usize, byte: u8) -> Result<At, BadBody> {
        if line >= MAX_LINE {
            return Err(BadBody);
        }
        let line = line + 1;
        if extension || (digits > 0 && matches!(byte, b';' | b' ' | b'\t')) {
            let fine = self.lenient && byte != b'\n';
            return if fine { Ok(At::Size { size, digits, extension: true, line }) } else { Err(BadBody) };
        }
        // 15 digits are a petabyte, and leave no room for an overflow.
        let value = char::from(byte).to_digit(16).filter(|_| digits < 15).ok_or(BadBody)?;
        Ok(At::Size { size: size << 4 | u64::from(value), digits: digits + 1, extension: false, line })
    }
}

impl At {
    fn of(framing: Framing) -> At {
        match framing {
            Framing::Empty | Framing::Length(0) => At::Done,
            Framing::Length(length) => At::Fixed(length),
            Framing::Chunked => At::size(),
            Framing::UntilClose => At::Endless,
        }
    }

    fn size() -> At {
        At::Size { size: 0, digits: 0, extension: false, line: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(body: &mut Body, text: &str) -> Result<usize, BadBody> {
        body.advance(text.as_bytes())
    }

    #[test]
    fn lengths_are_counted() {
        let mut body = Body::strict(Framing::Length(5));
        assert_eq!(follow(&mut body, "abc"), Ok(3));
        assert!(!body.done());
        assert_eq!(follow(&mut body, "deGET"), Ok(2));
        assert!(body.done());
        assert!(Body::strict(Framing::Empty).done());
        assert_eq!(follow(&mut Body::lenient(Framing::UntilClose), "anything"), Ok(8));
    }

    #[test]
    fn chunks_end_where_they_say_however_they_are_cut() {
        let text = "5\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        for cut in 0..text.len() {
            let mut body = Body::strict(Framing::Chunked);
            let (one, two) = text.split_at(cut);
            assert_eq!(follow(&mut body, one), Ok(one.len()));
            assert_eq!(follow(&mut body, &format!("{two}GET")), Ok(two.len()), "{cut}");
            assert!(body.done());
            let (mut body, mut data) = (Body::strict(Framing::Chunked), Vec::new());
            for part in [one, two] {
                body.advance_telling(part.as_bytes(), |bytes| data.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!(data, b"helloabcdefghijklmnopqrstuvwxyz");
        }
    }

    #[test]
    fn what_smugglers_use_is_refused_in_requests() {
        for text in [
            "5 \r\nhello\r\n",
            "5;x=y\r\nhello\r\n",
            "5\nhello",
            "0x5\r\nhello",
            "+5\r\nhello",
            "\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "0\r\nX: y\r\n\r\n",
            "fffffffffffffffff\r\n",
            "5\rhello",
            "0\r\n\n",
        ] {
            assert_eq!(follow(&mut Body::strict(Framing::Chunked), text), Err(BadBody), "{text:?}");
        }
    }

    #[test]
    fn replies_may_have_extensions_and_trailers_of_bounded_length() {
        for text in ["5;x=y\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0;a\r\nX: y\r\nZ: w\r\n\r\n"] {
            let mut body = Body::lenient(Framing::Chunked);
            assert_eq!(follow(&mut body, text), Ok(text.len()), "{text:?}");
            assert!(body.done(), "{text:?}");
        }
        let long = format!("5;{}", "x".repeat(5000));
        assert_eq!(follow(&mut Body::lenient(Framing::Chunked), &long), Err(BadBody));
        let long = format!("0\r\n{}", "X: y\r\n".repeat(2000));
        assert_eq!(follow(&mut Body::lenient(Framing::Chunked), &long), Err(BadBody));
    }
}
