//! A resolver that says what a test wants, lies included, and a client that asks resolvers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::wait::within;

/// One question as the resolver sees it.
pub struct Asked {
    /// The name with dots, in lower case.
    pub name: String,
    /// Whether for IPv6.
    pub v6: bool,
    /// Over TCP.
    pub stream: bool,
    /// How many questions for this name and type came before.
    pub before: usize,
    message: Message,
}

/// A resolver that listens over UDP and TCP.
pub struct Nameserver {
    /// Where.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Asked {
    /// An answer with nothing in it yet.
    pub fn reply(&self) -> Message {
        let mut reply = Message::new(self.message.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_queries(self.message.queries.iter().cloned());
        reply
    }

    /// These addresses of the name, as far as they are of the type that is asked for.
    pub fn addresses(&self, addresses: &[&str], ttl: u32) -> Vec<Message> {
        let mut reply = self.reply();
        reply.add_answers(addresses.iter().filter_map(|text| self.record(&self.name, text, ttl)));
        vec![reply]
    }

    /// One address of any name, if it is of the type that is asked for.
    pub fn record(&self, name: &str, address: &str, ttl: u32) -> Option<Record> {
        let address: IpAddr = address.parse().unwrap();
        (address.is_ipv6() == self.v6).then(|| Record::from_rdata(name_of(name), ttl, RData::from(address)))
    }

    /// An alias.
    pub fn alias(&self, name: &str, to: &str) -> Record {
        Record::from_rdata(name_of(name), 60, RData::CNAME(CNAME(name_of(to))))
    }
}

fn name_of(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

impl Nameserver {
    /// Sends whatever `answer` gives, one message after the other; nothing is silence.
    pub async fn start(answer: impl Fn(&Asked) -> Vec<Message> + Send + Sync + 'static) -> Self {
        let (stream, datagram) = loop {
            let stream = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The port of one may be taken for the other.
            if let Ok(datagram) = UdpSocket::bind(stream.local_addr().unwrap()).await {
                break (stream, datagram);
            }
        };
        let address = stream.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = seen.clone();
        let answer = Arc::new(move |bytes: &[u8], stream: bool| {
            let message = Message::from_vec(bytes).unwrap();
            let query = message.queries[0].clone();
            let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
            let line = format!("{name} {}", query.query_type());
            let before = {
                let mut noted = noted.lock().unwrap();
                noted.push(line.clone());
                noted.iter().filter(|each| **each == line).count() - 1
            };
            let asked = Asked { name, v6: query.query_type() == RecordType::AAAA, stream, before, message };
            answer(&asked).iter().map(|message| message.to_vec().unwrap()).collect::<Vec<_>>()
        });
        let over_stream = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = datagram.recv_from(&mut buffer).await.unwrap();
                for reply in answer(&buffer[..length], false) {
                    // Too large for a datagram: lost.
                    let _ = datagram.send_to(&reply, from).await;
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = stream.accept().await.unwrap();
                let answer = Arc::clone(&over_stream);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut message = vec![0; length.into()];
                        stream.read_exact(&mut message).await.unwrap();
                        for reply in answer(&message, true) {
                            stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                            stream.write_all(&reply).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// What it was asked, as `name TYPE`.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Asks a resolver over UDP.
pub async fn ask(resolver: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name, kind), resolver).await.unwrap();
    let mut buffer = [0; 4096];
    let length = within("an answer", socket.recv(&mut buffer)).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// Asks a resolver over TCP.
pub async fn ask_over_stream(resolver: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(resolver).await.unwrap();
    let question = question(name, kind);
    stream.write_u16(question.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&question).await.unwrap();
    let length = within("an answer", stream.read_u16()).await.unwrap();
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.unwrap();
    Message::from_vec(&message).unwrap()
}

/// The addresses in an answer.
pub fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).map(|address| address.to_string()).collect()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name_of(name), kind));
    message.to_vec().unwrap()
}
