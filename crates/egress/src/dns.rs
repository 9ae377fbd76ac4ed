//! Questions to a resolver and its answers (RFC 1035), as far as one needs them who hands out addresses and nothing else.
//! The reading and writing itself is hickory's.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record};

/// Bytes of a header.
const HEADER: usize = 12;
/// What we send in one datagram at most: no fragments (RFC 9715).
const MOST_PAYLOAD: u16 = 1232;
const RESPONSE: u8 = 0x80;

/// The type of an address.
pub const A: u16 = 1;
/// The type of an IPv6 address.
pub const AAAA: u16 = 28;

/// How an answer ends (RFC 1035 section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Here it is, or there is nothing of this type.
    Fine,
    /// Nobody could say.
    Failed,
    /// There is no such name.
    NoName,
    /// Not for you, or not now.
    Refused,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The name with dots, without the last; nothing where its labels have letters that no host has.
    pub name: Option<String>,
    /// The type of what is asked for.
    pub kind: u16,
    /// How long an answer by datagram may be.
    pub payload: u16,
    message: Message,
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
pub fn question(bytes: &[u8]) -> Result<Question, Wrong> {
    let Some([id1, id2, flags, ..]) = bytes.first_chunk::<HEADER>() else { return Err(Wrong::Silence) };
    if flags & RESPONSE != 0 {
        return Err(Wrong::Silence);
    }
    let operation = OpCode::from_u8(flags >> 3 & 0xf);
    let wrong = |code| {
        let reply = Message::error_msg(u16::from_be_bytes([*id1, *id2]), operation, code);
        reply.to_vec().map_or(Wrong::Silence, Wrong::Answer)
    };
    if operation != OpCode::Query {
        return Err(wrong(ResponseCode::NotImp));
    }
    let message = Message::from_vec(bytes).map_err(|_| wrong(ResponseCode::FormErr))?;
    let [query] = message.queries.as_slice() else { return Err(wrong(ResponseCode::FormErr)) };
    if !message.answers.is_empty() || !message.authorities.is_empty() {
        return Err(wrong(ResponseCode::FormErr));
    }
    if query.query_class() != DNSClass::IN {
        return Err(wrong(ResponseCode::Refused));
    }
    let (name, kind) = (text(query.name()), u16::from(query.query_type()));
    Ok(Question { name, kind, payload: message.max_payload().min(MOST_PAYLOAD), message })
}

/// The name as hosts are written; nothing for the root, and for labels that no host has.
fn text(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(*byte)));
    }
    (!text.is_empty()).then_some(text)
}

impl Question {
    /// An answer without addresses.
    pub fn answer(&self, code: Code) -> Vec<u8> {
        self.write(&self.reply(code))
    }

    /// The addresses of the type that is asked for, good for `ttl` seconds. Where they do not fit into `limit` bytes the
    /// asker is told to come again over TCP.
    pub fn addresses(&self, addresses: &[IpAddr], ttl: u32, limit: usize) -> Vec<u8> {
        let mut reply = self.reply(Code::Fine);
        let Some(name) = self.message.queries.first().map(|query| query.name().clone()) else {
            return self.answer(Code::Failed);
        };
        let fitting = addresses.iter().filter(|address| self.kind == if address.is_ipv4() { A } else { AAAA });
        reply.add_answers(fitting.map(|address| Record::from_rdata(name.clone(), ttl, RData::from(*address))));
        let whole = self.write(&reply);
        if whole.len() <= limit { whole } else { self.write(&reply.truncate()) }
    }

    fn reply(&self, code: Code) -> Message {
        let mut reply = Message::new(self.message.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = self.message.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = match code {
            Code::Fine => ResponseCode::NoError,
            Code::Failed => ResponseCode::ServFail,
            Code::NoName => ResponseCode::NXDomain,
            Code::Refused => ResponseCode::Refused,
        };
        reply.add_queries(self.message.queries.iter().cloned());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MOST_PAYLOAD);
            reply.set_edns(edns);
        }
        reply
    }

    /// What cannot be written is not sent, and asked for again.
    fn write(&self, reply: &Message) -> Vec<u8> {
        reply.to_vec().unwrap_or_default()
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
        assert!(cut[2] & 2 != 0 && cut[7] == 0 && cut.len() < 512);
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
