//! A conversation with a program over its stdin and stdout.

use std::time::Duration;

use outrigger_sidecar::child::{ChildSpec, Pipes, RunningChild, start};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::wire::{Manners, Trouble, answer_to, notification, request, silent};

/// The longest line that is read.
const LONGEST_LINE: u64 = 64 << 20;
/// How much of a line that is no message is shown.
const SHOWN: usize = 120;
/// How long each step of stopping may take.
const STOP: Duration = Duration::from_secs(2);

/// A running program.
pub(super) struct Stdio {
    child: RunningChild,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    patience: Duration,
    last_id: u64,
    manners: Manners,
}

impl Stdio {
    /// Starts the program.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn start(command: &[String], patience: Duration) -> Result<Self, Trouble> {
        let command = command.to_vec();
        let spec = ChildSpec {
            command,
            env: Default::default(),
            way_out: None,
            without: Vec::new(),
            cwd: None,
            confinement: None,
            guard: None,
            stop: STOP,
        };
        let (child, Pipes { stdin, stdout }) = start(&spec, "server").map_err(Trouble::gone)?;
        let stdout = BufReader::new(stdout);
        Ok(Self { child, stdin, stdout, patience, last_id: 0, manners: Manners::default() })
    }

    /// See [`super::wire::Wire::ask`].
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Trouble> {
        self.last_id += 1;
        let id = self.last_id;
        self.write(&request(id, method, &params)).await?;
        let patience = self.patience;
        timeout(patience, self.answer(id)).await.unwrap_or_else(|_| Err(silent(method, patience)))
    }

    /// See [`super::wire::Wire::tell`].
    pub(super) async fn tell(&mut self, method: &str) {
        // A server that has gone is noticed by the next question.
        let _ = self.write(&notification(method)).await;
    }

    async fn answer(&mut self, id: u64) -> Result<Value, Trouble> {
        loop {
            let message = self.message().await?;
            if message.get("method").is_some() {
                if let Some(answer) = answer_to(&message) {
                    self.write(&answer).await?;
                }
            } else if message.get("id").and_then(Value::as_u64) == Some(id) {
                return Ok(message);
            }
        }
    }

    async fn message(&mut self) -> Result<Value, Trouble> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.stdout).take(LONGEST_LINE).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) {
                return Err(Trouble::gone("the program ended"));
            }
            match serde_json::from_slice::<Value>(&line) {
                Ok(message) if message.is_object() => return Ok(message),
                _ if line.trim_ascii().is_empty() => {}
                _ => self.note(&line),
            }
        }
    }

    fn note(&mut self, line: &[u8]) {
        self.manners.noise += 1;
        let text =
            || String::from_utf8_lossy(line.trim_ascii()).chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        self.manners.first_noise.get_or_insert_with(text);
    }

    async fn write(&mut self, message: &Value) -> Result<(), Trouble> {
        let line = format!("{message}\n");
        let written = timeout(self.patience, self.stdin.write_all(line.as_bytes())).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Trouble::gone("the program ended")),
            Err(_) => Err(Trouble::gone("the program does not read its stdin")),
        }
    }

    /// See [`super::wire::Wire::close`].
    pub(super) async fn close(self, watch: bool) -> Manners {
        let Self { child, stdin, mut stdout, mut manners, .. } = self;
        if !watch {
            // Dropped, it is killed with everything that it started.
            return manners;
        }
        drop(stdin);
        // The end of its stdout is the end of the program, nearly always.
        let ended = timeout(STOP, tokio::io::copy(&mut stdout, &mut tokio::io::sink())).await;
        manners.stays = ended.is_err();
        child.stop().await;
        manners
    }
}
