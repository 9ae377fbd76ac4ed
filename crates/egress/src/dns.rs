//! Questions to a resolver and its answers (RFC 1035), as far as one needs them who hands out addresses and nothing else.

use std::net::IpAddr;

/// Bytes of a header.
const HEADER: usize = 12;
/// The longest name (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;
/// What fits into a datagram unless the question says more (RFC 1035), and what we send at most: no fragments (RFC 9715).
const PLAIN_PAYLOAD: u16 = 512;
const MOST_PAYLOAD: u16 = 1232;
/// The class of the internet.
const INTERNET: u16 = 1;
const OPT: u16 = 41;
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// The type of an address.
pub const A: u16 = 1;
/// The type of an IPv6 address.
pub const AAAA: u16 = 28;

/// How an answer ends (RFC 1035 section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Here it is, or there is nothing of this type.
    Fine = 0,
    /// The question is broken.
    Format = 1,
    /// Nobody could say.
    Failed = 2,
    /// There is no such name.
    NoName = 3,
    /// That is not done here.
    NotImplemented = 4,
    /// Not for you.
    Refused = 5,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name with dots, without the last; nothing where its labels have letters that no host has.
    pub name: Option<String>,
    /// The type of what is asked for.
    pub kind: u16,
    /// How long an answer by datagram may be.
    pub payload: u16,
    head: [u8; 4],
    /// As it came, for the answer.
    raw: Vec<u8>,
}

/// Why there is no question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing to answer: no header, or itself an answer.
    Silence,
    /// Answer with this.
    Answer(Vec<u8>),
}

/// Reads a question.
///
/// # Errors
/// [`Wrong`].
pub fn question(message: &[u8]) -> Result<Question, Wrong> {
    let Some((header, rest)) = message.split_first_chunk::<HEADER>() else { return Err(Wrong::Silence) };
    let [id1, id2, flags, more, questions @ ..] = *header;
    if flags & RESPONSE != 0 {
        return Err(Wrong::Silence);
    }
    let head = [id1, id2, flags, more];
    let wrong = |code| Wrong::Answer(start(head, code, 0, 0));
    if flags & OPCODE != 0 {
        return Err(wrong(Code::NotImplemented));
    }
    if questions.get(..6) != Some(&[0, 1, 0, 0, 0, 0]) {
        return Err(wrong(Code::Format));
    }
    let (name, length) = name(rest).ok_or_else(|| wrong(Code::Format))?;
    let end = length + 4;
    let (Some(raw), Some(&[k1, k2, c1, c2])) = (rest.get(..end), rest.get(length..end)) else {
        return Err(wrong(Code::Format));
    };
    if u16::from_be_bytes([c1, c2]) != INTERNET {
        return Err(wrong(Code::Refused));
    }
    let payload = payload(rest.get(end..).unwrap_or_default());
    Ok(Question { name, kind: u16::from_be_bytes([k1, k2]), payload, head, raw: raw.to_vec() })
}

/// Reads a name; returns it and how many bytes it took. Pointers lead nowhere in a question.
fn name(bytes: &[u8]) -> Option<(Option<String>, usize)> {
    let (mut text, mut good, mut at) = (String::new(), true, 0);
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            let name = (good && !text.is_empty()).then_some(text);
            return (at <= LONGEST_NAME).then_some((name, at));
        }
        if length > 63 || at + length > LONGEST_NAME {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        good &= label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(*byte)));
        at += length;
    }
}

/// What the sender of an OPT record takes (RFC 6891); it comes first after the question where there is one.
fn payload(additional: &[u8]) -> u16 {
    match *additional {
        [0, t1, t2, p1, p2, ..] if u16::from_be_bytes([t1, t2]) == OPT => {
            u16::from_be_bytes([p1, p2]).clamp(PLAIN_PAYLOAD, MOST_PAYLOAD)
        }
        _ => PLAIN_PAYLOAD,
    }
}

fn start(head: [u8; 4], code: Code, questions: u16, answers: u16) -> Vec<u8> {
    let [id1, id2, flags, _] = head;
    let mut out = vec![id1, id2, RESPONSE | flags & (OPCODE | RECURSION_DESIRED), RECURSION_AVAILABLE | code as u8];
    out.extend(questions.to_be_bytes());
    out.extend(answers.to_be_bytes());
    out.extend([0; 4]);
    out
}

impl Question {
    /// An answer without addresses.
    pub fn answer(&self, code: Code) -> Vec<u8> {
        let mut out = start(self.head, code, 1, 0);
        out.extend(&self.raw);
        out
    }

    /// The addresses of the type that is asked for, good for `ttl` seconds. Where they do not fit into `limit` bytes the
    /// asker is told to come again over TCP.
    pub fn addresses(&self, addresses: &[IpAddr], ttl: u32, limit: usize) -> Vec<u8> {
        let fitting =
            || addresses.iter().filter(|address| if address.is_ipv4() { self.kind == A } else { self.kind == AAAA });
        let Ok(count) = u16::try_from(fitting().count()) else { return self.answer(Code::Failed) };
        let mut out = start(self.head, Code::Fine, 1, count);
        out.extend(&self.raw);
        for address in fitting() {
            // The name is the one of the question, which begins right after the header.
            out.extend([0xc0, 12]);
            out.extend(self.kind.to_be_bytes());
            out.extend(INTERNET.to_be_bytes());
            out.extend(ttl.to_be_bytes());
            match address {
                IpAddr::V4(address) => {
                    out.extend([0, 4]);
                    out.extend(address.octets());
                }
                IpAddr::V6(address) => {
                    out.extend([0, 16]);
                    out.extend(address.octets());
                }
            }
        }
        if out.len() <= limit {
            return out;
        }
        let mut cut = self.answer(Code::Fine);
        if let Some(flags) = cut.get_mut(2) {
            *flags |= TRUNCATED;
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, kind: u16, class: u16) -> Vec<u8> {
        let mut out = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend(label.as_bytes());
        }
        out.push(0);
        out.extend(kind.to_be_bytes());
        out.extend(class.to_be_bytes());
        out
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let question = question(&asked("API.example.com", A, 1)).unwrap();
        assert_eq!((question.name.as_deref(), question.kind, question.payload), (Some("API.example.com"), A, 512));
        let reply = question.addresses(&["1.2.3.4".parse().unwrap(), "2600::1".parse().unwrap()], 30, 512);
        assert_eq!(&reply[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1], "one answer of the type");
        assert_eq!(&reply[reply.len() - 16..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 1, 2, 3, 4]);
        assert_eq!(question.answer(Code::NoName)[3] & 0xf, 3);
    }

    #[test]
    fn what_does_not_fit_is_asked_again_over_tcp() {
        let question = question(&asked("a.test", AAAA, 1)).unwrap();
        let many: Vec<IpAddr> =
            (0..30_u16).map(|n| std::net::Ipv6Addr::from([0x2600, 0, 0, 0, 0, 0, 0, n]).into()).collect();
        let cut = question.addresses(&many, 30, 512);
        assert!(cut[2] & TRUNCATED != 0 && cut[7] == 0 && cut.len() < 512);
        assert_eq!(question.addresses(&many, 30, 65_535)[7], 30);
    }

    #[test]
    fn what_a_sender_takes_is_bounded() {
        let with = |size: u16| {
            let mut message = asked("a.test", A, 1);
            message[11] = 1;
            message.extend([0, 0, 41]);
            message.extend(size.to_be_bytes());
            message.extend([0; 6]);
            question(&message).unwrap().payload
        };
        assert_eq!((with(0), with(1000), with(65_535)), (512, 1000, 1232));
    }

    #[test]
    fn broken_questions_get_an_error_and_answers_get_silence() {
        let code = |message: &[u8]| match question(message) {
            Err(Wrong::Answer(reply)) => Some(reply[3] & 0xf),
            _ => None,
        };
        let good = asked("a.test", A, 1);
        assert_eq!(question(&good[..11]), Err(Wrong::Silence));
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(question(&answer), Err(Wrong::Silence));
        let mut update = good.clone();
        update[2] |= 0x28;
        assert_eq!(code(&update), Some(4));
        for end in 12..good.len() {
            assert_eq!(code(&good[..end]), Some(1), "cut at {end}");
        }
        assert_eq!(code(&asked("a.test", A, 3)), Some(5), "another class");
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(code(&two), Some(1));
        let pointer = [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert_eq!(code(&pointer), Some(1));
        let long = vec!["a".repeat(63); 5].join(".");
        assert_eq!(code(&asked(&long, A, 1)), Some(1));
    }

    #[test]
    fn names_that_no_host_has_are_no_names() {
        assert_eq!(question(&asked("a b.test", A, 1)).unwrap().name, None);
        assert_eq!(question(&asked("a\0.test", A, 1)).unwrap().name, None);
        assert_eq!(question(&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]).unwrap().name, None, "the root");
    }
}
