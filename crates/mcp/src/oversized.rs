//! A message that is too large to be kept: just enough of it to say whose reply it was.

/// How much is kept of either end. Ids stand there: writers put them before or after everything else.
const KEPT: usize = 512;

/// Both ends of a message that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clue {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Clue {
    /// Takes the next bytes of the message.
    pub fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(KEPT - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(rest.get(rest.len().saturating_sub(KEPT)..).unwrap_or_default());
        self.tail.drain(..self.tail.len().saturating_sub(KEPT));
    }

    /// The numeric id of the message, if it stands plainly at one of its ends: before anything nested, or after it.
    pub fn id(&self) -> Option<u64> {
        let first = self.head.windows(5).position(is_id).filter(|at| count(&self.head, ..*at, b"{[") == 1);
        let last = self.tail.windows(5).rposition(is_id).filter(|at| count(&self.tail, *at.., b"}]") == 1);
        let text = match (first, last) {
            (Some(at), _) => self.head.get(at + 5..),
            (None, Some(at)) => self.tail.get(at + 5..),
            (None, None) => None,
        }?;
        let digits = text.iter().skip_while(|b| **b == b' ').take_while(|b| b.is_ascii_digit());
        digits.map(|b| u64::from(b - b'0')).map(Some).reduce(|sum, next| sum?.checked_mul(10)?.checked_add(next?))?
    }
}

fn is_id(window: &[u8]) -> bool {
    window == b"\"id\":"
}

fn count(text: &[u8], range: impl std::slice::SliceIndex<[u8], Output = [u8]>, of: &[u8]) -> usize {
    text.get(range).unwrap_or_default().iter().filter(|byte| of.contains(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(text: &str) -> Option<u64> {
        let mut clue = Clue::default();
        text.as_bytes().chunks(700).for_each(|chunk| clue.push(chunk));
        clue.id()
    }

    #[test]
    fn ids_are_found_at_both_ends_and_not_inside() {
        let long = "x".repeat(5000);
        assert_eq!(id_of(&format!(r#"{{"jsonrpc":"2.0","id": 12,"result":"{long}"}}"#)), Some(12));
        assert_eq!(id_of(&format!(r#"{{"result":{{"a":"{long}"}},"jsonrpc":"2.0","id":7}}"#)), Some(7));
        assert_eq!(id_of(&format!(r#"{{"result":{{"id":3,"a":"{long}"}}}}"#)), None);
        assert_eq!(id_of(&format!(r#"{{"result":{{"a":"{long}","b":{{"id":3}}}}}}"#)), None);
        assert_eq!(id_of(&format!(r#"{{"id":"seven","result":"{long}"}}"#)), None);
        assert_eq!(id_of(&format!(r#"{{"id":99999999999999999999999,"result":"{long}"}}"#)), None);
    }
}
