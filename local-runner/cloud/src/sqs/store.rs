//! The queues in Redis: one method per Lua script.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{FromRedisValue, Script};

use super::link::Link;
use super::message::Stored;
use super::{Counts, Fault, Receipt, Result, SqsError, arn, attributes};

/// Redis with the scripts of this folder.
pub(super) struct Store {
    link: Link,
    prefix: String,
    clock_offset: Option<String>,
    scripts: Scripts,
}

struct Scripts {
    change_visibility: Script,
    create: Script,
    delete_messages: Script,
    delete_queue: Script,
    describe: Script,
    list: Script,
    purge: Script,
    receive: Script,
    send: Script,
    set_attributes: Script,
}

macro_rules! script {
    ($name:literal) => {
        Script::new(concat!(include_str!("prelude.lua"), "\n", include_str!($name)))
    };
}

/// A message about to be stored.
pub(super) struct NewMessage<'a> {
    pub(super) id: String,
    pub(super) message: &'a Stored,
    pub(super) size: usize,
    /// `None`: as the queue says.
    pub(super) delay: Option<Duration>,
}

/// A message as one receive handed it out.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) handle: String,
    pub(crate) message: Stored,
    pub(crate) receive_count: u64,
    pub(crate) first_received_ms: u64,
    pub(crate) sent_ms: u64,
    /// ARN of the queue for which it is a dead letter.
    pub(crate) origin: Option<String>,
}

pub(super) struct Reply {
    pub(super) default_wait: Duration,
    pub(super) visibility: Duration,
    pub(super) buried_in: Option<String>,
    pub(super) messages: Vec<Received>,
}

pub(super) struct Description {
    pub(super) counts: Counts,
    pub(super) attributes: BTreeMap<String, String>,
}

pub(super) enum Purged {
    Messages(u64),
    TooSoon,
}

/// What a change of visibility came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Done,
    NotInFlight,
    TooLong,
}

type RawMessage = (String, Vec<u8>, u64, u64, u64, String);

impl Store {
    pub(super) async fn connect(url: &str, prefix: &str, clock_offset: Option<String>) -> Result<Self> {
        Ok(Self {
            link: Link::connect(url).await?,
            prefix: prefix.to_owned(),
            clock_offset,
            scripts: Scripts {
                change_visibility: script!("change_visibility.lua"),
                create: script!("create.lua"),
                delete_messages: script!("delete_messages.lua"),
                delete_queue: script!("delete_queue.lua"),
                describe: script!("describe.lua"),
                list: script!("list.lua"),
                purge: script!("purge.lua"),
                receive: script!("receive.lua"),
                send: script!("send.lua"),
                set_attributes: script!("set_attributes.lua"),
            },
        })
    }

    pub(super) async fn advance_clock(&self, by: Duration) -> Result<()> {
        let Some(key) = &self.clock_offset else {
            return Err(
                Fault::UnsupportedOperation.because("The clock of these queues is Redis' own and cannot be moved.")
            );
        };
        let milliseconds = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.link
            .patiently(async |connection| redis::cmd("INCRBY").arg(key).arg(milliseconds).query_async(connection).await)
            .await
    }

    /// Answers whether the queue is new. With `ensure` its attributes are replaced, otherwise they must agree with the given ones.
    pub(super) async fn create(&self, queue: &str, given: &BTreeMap<String, String>, ensure: bool) -> Result<bool> {
        let given: Vec<_> = given.iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut arguments =
            vec![queue.to_owned(), if ensure { "ensure" } else { "create" }.to_owned(), given.len().to_string()];
        arguments.extend(given.into_iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
        arguments.extend(attributes::defaults().into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        let answer: Option<String> = self.run(&self.scripts.create, queue, &arguments).await?;
        match answer.as_deref() {
            Some("created") => Ok(true),
            Some("deleted recently") => Err(Fault::QueueDeletedRecently.because(
                "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
            )),
            Some(other) => match other.strip_prefix("differs ") {
                Some(name) => Err(Fault::QueueNameExists.because(format!(
                    "A queue already exists with the same name and a different value for attribute {}",
                    attributes::public_name(name)
                ))),
                None => Ok(false),
            },
            None => Ok(false),
        }
    }

    pub(super) async fn set_attributes(&self, queue: &str, given: &BTreeMap<String, String>) -> Result<()> {
        let arguments: Vec<String> = given.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect();
        let done: Option<u64> = self.run(&self.scripts.set_attributes, queue, &arguments).await?;
        existing(queue, done).map(drop)
    }

    pub(super) async fn describe(&self, queue: &str) -> Result<Description> {
        let answer: Option<(u64, u64, u64, Vec<String>)> =
            self.run(&self.scripts.describe, queue, &[] as &[&str]).await?;
        let (visible, in_flight, delayed, pairs) = existing(queue, answer)?;
        let mut attributes = BTreeMap::new();
        let mut pairs = pairs.into_iter();
        while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
            if !name.starts_with('-') {
                attributes.insert(name, value);
            }
        }
        Ok(Description { counts: Counts { visible, in_flight, delayed }, attributes })
    }

    /// For each message, the size limit of the queue that it exceeds.
    pub(super) async fn send(&self, queue: &str, messages: Vec<NewMessage<'_>>) -> Result<Vec<Result<(), u64>>> {
        let arguments: Vec<String> = messages
            .into_iter()
            .flat_map(|new| {
                let delay = new.delay.map_or_else(|| "-1".to_owned(), |delay| delay.as_millis().to_string());
                [new.id, new.message.to_json(), new.size.to_string(), delay]
            })
            .collect();
        let limits: Option<Vec<u64>> = self.run(&self.scripts.send, queue, &arguments).await?;
        Ok(existing(queue, limits)?.into_iter().map(|limit| if limit == 0 { Ok(()) } else { Err(limit) }).collect())
    }

    pub(super) async fn receive(&self, queue: &str, most: usize, visibility_seconds: Option<u32>) -> Result<Reply> {
        let visibility = visibility_seconds.map_or_else(String::new, |seconds| seconds.to_string());
        let arguments = [most.to_string(), visibility, arn(queue)];
        let answer: Option<Vec<redis::Value>> = self.run(&self.scripts.receive, queue, &arguments).await?;
        let mut answer = existing(queue, answer)?.into_iter();
        let (wait, visibility) = (self.field::<u64>(answer.next())?, self.field::<u64>(answer.next())?);
        let buried_in: String = self.field(answer.next())?;
        if self.field::<u64>(answer.next())? == 1 {
            return Err(Fault::OverLimit.because("Too many messages in flight: 120000 at most."));
        }
        let messages = answer.map(|raw| self.received(queue, self.field(Some(raw))?)).collect::<Result<_>>()?;
        Ok(Reply {
            default_wait: Duration::from_secs(wait),
            visibility: Duration::from_secs(visibility),
            buried_in: Some(buried_in).filter(|name| !name.is_empty()),
            messages,
        })
    }

    fn received(&self, queue: &str, (id, json, receive_count, first, sent, origin): RawMessage) -> Result<Received> {
        let message = Stored::from_json(&json)
            .map_err(|error| self.link.unavailable(&format!("message {id} of {queue} is damaged ({error})")))?;
        Ok(Received {
            handle: Receipt::issue(queue, &id),
            id,
            message,
            receive_count,
            first_received_ms: first / 1000,
            sent_ms: sent / 1000,
            origin: Some(origin).filter(|origin| !origin.is_empty()),
        })
    }

    pub(super) async fn delete_messages(&self, queue: &str, ids: &[&str]) -> Result<()> {
        let deleted: Option<u64> = self.run(&self.scripts.delete_messages, queue, ids).await?;
        existing(queue, deleted).map(drop)
    }

    /// Sets the visibility timeouts, in seconds from now.
    pub(super) async fn change_visibility(&self, queue: &str, timeouts: &[(&str, u32)]) -> Result<Vec<Changed>> {
        let arguments: Vec<String> =
            timeouts.iter().flat_map(|(id, seconds)| [(*id).to_owned(), seconds.to_string()]).collect();
        let answers: Option<Vec<String>> = self.run(&self.scripts.change_visibility, queue, &arguments).await?;
        let changed = |answer: String| match answer.as_str() {
            "ok" => Changed::Done,
            "too long" => Changed::TooLong,
            _ => Changed::NotInFlight,
        };
        Ok(existing(queue, answers)?.into_iter().map(changed).collect())
    }

    pub(super) async fn purge(&self, queue: &str, once_a_minute: bool) -> Result<Purged> {
        let arguments = [if once_a_minute { "once a minute" } else { "" }];
        let answer: Option<i64> = self.run(&self.scripts.purge, queue, &arguments).await?;
        Ok(u64::try_from(existing(queue, answer)?).map_or(Purged::TooSoon, Purged::Messages))
    }

    pub(super) async fn delete_queue(&self, queue: &str) -> Result<()> {
        let done: Option<u64> = self.run(&self.scripts.delete_queue, queue, &[queue]).await?;
        existing(queue, done).map(drop)
    }

    /// Names that begin with `begin`, in order, those behind `after`, at most `most`.
    pub(super) async fn list(&self, begin: &str, after: Option<&str>, most: usize) -> Result<Vec<String>> {
        let from = match after {
            Some(after) => format!("({after}"),
            None => format!("[{begin}"),
        };
        // Names are ASCII, so this byte is behind them all.
        let mut to = format!("[{begin}").into_bytes();
        to.push(0xff);
        let arguments = [from.into_bytes(), to, most.min(i32::MAX as usize).to_string().into_bytes()];
        self.run(&self.scripts.list, "", &arguments).await
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        queue: &str,
        arguments: &[impl redis::ToRedisArgs],
    ) -> Result<T> {
        let mut invocation = script.prepare_invoke();
        invocation
            .key(format!("{}sqs:queue:{queue}:", self.prefix))
            .key(format!("{}sqs:", self.prefix))
            .arg(self.clock_offset.as_deref().unwrap_or_default());
        for argument in arguments {
            invocation.arg(argument);
        }
        self.link.patiently(async |connection| invocation.invoke_async(connection).await).await
    }

    fn field<T: FromRedisValue>(&self, value: Option<redis::Value>) -> Result<T> {
        redis::from_redis_value(value.unwrap_or(redis::Value::Nil))
            .map_err(|error| self.link.unavailable(&format!("a script's answer cannot be read ({error})")))
    }
}

fn existing<T>(queue: &str, answer: Option<T>) -> Result<T> {
    answer.ok_or_else(|| SqsError::NoSuchQueue(queue.to_owned()))
}
