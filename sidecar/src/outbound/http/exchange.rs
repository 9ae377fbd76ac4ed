//! One plain request and its reply, both streamed; each end is known from what goes by.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_egress::body::Body;
use outrigger_egress::reply;
use outrigger_egress::request::{BadRequest, Framing};
use tokio::task::coop::consume_budget;

use super::super::authorize::Permitted;
use super::super::credentials::Watch;
use super::super::io::{read, read_into, write_all};
use super::super::record::Record;
use super::super::refusal::{Refusal, Why};
use super::super::relay::Moved;
use super::super::wire::Wire;
use super::{has_body, heads};
use crate::config::EgressTimeouts;

/// Bytes of a reply's head at most.
const MAX_REPLY_HEAD: usize = 64 * 1024;
/// Interim replies (1xx) to one request at most.
const MAX_INTERIM: usize = 32;

/// A request that may be sent.
pub(super) struct Exchange<'e> {
    pub(super) client: &'e Wire,
    pub(super) origin: &'e Wire,
    pub(super) method: &'e str,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) times: &'e EgressTimeouts,
    pub(super) permitted: &'e Permitted,
    /// Whether the reply has begun.
    pub(super) replying: AtomicBool,
}

/// How one half ended when it did not go well.
enum Ended {
    /// Something that can still be told.
    Told(Why),
    /// The connection to one of the two broke, or a reply had begun.
    Broken,
}

impl Exchange<'_> {
    /// Sends the head, the body and the reply. `true`: the client's connection is ready for another request.
    pub(super) async fn run(&self, head: &[u8], buffer: &mut Vec<u8>, record: &mut Record) -> Result<bool, Why> {
        self.may_send(head.len())?;
        let (mut body, mut watch) = (Body::strict(self.framing), self.permitted.watch());
        // What is refused for its first words, the destination does not hear of.
        let used = follow(&mut body, &mut watch, buffer)?;
        let later = buffer.split_off(used);
        let begun = std::mem::replace(buffer, later);
        if write_all(self.origin, head).await.is_err() {
            return Err(Why::NoReply);
        }
        let moved = Moved::new();
        let outcome = tokio::select! {
            outcome = self.both((&mut body, &mut watch, begun), buffer, &moved) => outcome,
            () = moved.over(self.times.idle, self.times.total) => Err(Ended::Broken),
        };
        (record.up, record.down) = moved.bytes();
        match outcome {
            Ok(next) => Ok(next),
            // Another reply inside the one that has begun would be taken for its body. Limits are told by `Record::sent`.
            Err(Ended::Told(why)) if self.replying.load(Ordering::Relaxed) => {
                if !matches!(why, Why::Over(_)) {
                    record.refused(&Refusal { why, rule: self.permitted.rule.clone() });
                }
                Ok(false)
            }
            Err(Ended::Told(why)) => Err(why),
            Err(Ended::Broken) => Ok(false),
        }
    }

    /// Paths and fields carry data as well as bodies do: all of it counts.
    fn may_send(&self, bytes: usize) -> Result<(), Why> {
        self.permitted.upload.may_send(bytes).map_err(Why::Over)
    }

    async fn both(&self, begun: Begun<'_, '_>, buffer: &mut Vec<u8>, moved: &Moved) -> Result<bool, Ended> {
        let upload = self.upload(begun, buffer, moved);
        let download = self.download(moved);
        tokio::pin!(upload, download);
        tokio::select! {
            // First: a body that has just ended must not count as one that the reply overtook.
            biased;
            uploaded = &mut upload => match uploaded {
                Ok(()) => download.await,
                Err(ended) => Err(ended),
            },
            // A reply before the body's end: what is left of the body cannot be told from another request.
            downloaded = &mut download => downloaded.map(|next| next && !has_body(self.framing)),
        }
    }

    async fn upload(
        &self,
        (body, watch, begun): Begun<'_, '_>,
        buffer: &mut Vec<u8>,
        moved: &Moved,
    ) -> Result<(), Ended> {
        self.may_send(begun.len()).map_err(Ended::Told)?;
        write_all(self.origin, &begun).await.map_err(|_| Ended::Told(Why::NoReply))?;
        moved.count_up(begun.len());
        drop(begun);
        while !body.done() {
            let (mut chunk, bytes) = read(self.client).await.map_err(|_| Ended::Broken)?;
            if bytes == 0 {
                return Err(Ended::Broken);
            }
            let bytes = chunk.bytes().get(..bytes).unwrap_or_default();
            let used = follow(body, watch, bytes).map_err(Ended::Told)?;
            let (now, later) = bytes.split_at(used);
            self.may_send(now.len()).map_err(Ended::Told)?;
            // A destination that closed may have answered already: the reply is still read.
            if write_all(self.origin, now).await.is_err() {
                return std::future::pending().await;
            }
            moved.count_up(now.len());
            buffer.extend_from_slice(later);
            // Both sides may be ready for ever: time limits and other connections of this thread have their turn too.
            consume_budget().await;
        }
        Ok(())
    }

    async fn download(&self, moved: &Moved) -> Result<bool, Ended> {
        let to_head = self.method == "HEAD";
        let (mut buffer, mut interims) = (Vec::new(), 0);
        loop {
            let read = read_into(self.origin, &mut buffer).await;
            if !matches!(read, Ok(bytes) if bytes > 0) {
                return Err(Ended::Told(Why::NoReply));
            }
            while let Some(reply) = reply::parse(&buffer, to_head).map_err(|bad| Ended::Told(Why::BadReply(bad)))? {
                // 101 would end HTTP on this connection; Upgrade is never passed on, so nobody asked for it.
                if reply.status == 101 || interims == MAX_INTERIM {
                    return Err(Ended::Told(Why::BadReply(reply::BadReply::Malformed)));
                }
                let mut body = Body::lenient(reply.framing);
                let keep_alive = self.keep_alive && !body.ends_with_connection();
                let head = heads::reply(&reply, keep_alive, to_head);
                self.replying.store(reply.status >= 200, Ordering::Relaxed);
                write_all(self.client, &head).await.map_err(|_| Ended::Broken)?;
                let interim = reply.status < 200;
                buffer.drain(..reply.length);
                if !interim {
                    self.rest(&mut body, buffer, moved).await.map_err(|_| Ended::Broken)?;
                    return Ok(keep_alive);
                }
                interims += 1;
            }
            if buffer.len() > MAX_REPLY_HEAD {
                return Err(Ended::Told(Why::BadReply(reply::BadReply::Malformed)));
            }
        }
    }

    /// The body of a reply. What follows it is dropped with the connection.
    async fn rest(&self, body: &mut Body, begun: Vec<u8>, moved: &Moved) -> io::Result<()> {
        let broken = |_| io::Error::from(io::ErrorKind::InvalidData);
        let used = body.advance(&begun).map_err(broken)?;
        write_all(self.client, begun.get(..used).unwrap_or_default()).await?;
        moved.count_down(used);
        drop(begun);
        while !body.done() {
            let (mut chunk, bytes) = read(self.origin).await?;
            if bytes == 0 {
                return if body.ends_with_connection() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let bytes = chunk.bytes().get(..bytes).unwrap_or_default();
            let used = body.advance(bytes).map_err(broken)?;
            write_all(self.client, bytes.get(..used).unwrap_or_default()).await?;
            moved.count_down(used);
            consume_budget().await;
        }
        Ok(())
    }
}

/// A body that has begun: where in it we are, what is looked for in it, and what there is of it.
type Begun<'b, 'w> = (&'b mut Body, &'b mut Watch<'w>, Vec<u8>);

/// How many of these bytes belong to the body, and may leave.
fn follow(body: &mut Body, watch: &mut Watch<'_>, bytes: &[u8]) -> Result<usize, Why> {
    let mut watched = Ok(());
    let used = body.advance_telling(bytes, |data| {
        if watched.is_ok() {
            watched = watch.over(data);
        }
    });
    watched?;
    used.map_err(|_| Why::BadRequest(BadRequest::Length))
}
