//! The Lambda Runtime API of one sandbox: where the function's process fetches events and posts its answers.
//!
//! Each sandbox has a listener of its own on a free loopback port, so that a process can never reach the invocations
//! of another. The state machine is AWS's: `/next` blocks until there is work, an answer counts once and only before
//! the deadline, and an error of the init phase is accepted only before the first `/next`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;

use body::{mid_stream_error, read, reported};
use extensions::Extensions;
use refusal::{ApiError, accepted};

mod body;
mod extensions;
mod refusal;

/// Largest answer of a function in bytes (6 MiB and 100 bytes); what is larger becomes `Function.ResponseSizeTooLarge`.
pub const MAX_RESPONSE_BYTES: usize = 6_291_556;

const RUNTIME: &str = "/2018-06-01/runtime";

/// One event on its way to the function's process.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Id that the answer must carry.
    pub request_id: String,
    /// The event, JSON.
    pub payload: Bytes,
    /// When the function's time is over; answers after it are refused.
    pub deadline: Instant,
    /// ARN as it was invoked, with the qualifier if one was used.
    pub arn: String,
    /// X-Ray header of the invocation.
    pub trace_id: String,
    /// The caller's client context, JSON.
    pub client_context: Option<String>,
}

/// What the process said to one invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The function's result as it was posted.
    Response(Bytes),
    /// The function reported an error.
    Error(ReportedError),
    /// The result was larger than [`MAX_RESPONSE_BYTES`].
    TooLarge,
}

/// An error that the process reported, of an invocation or of its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedError {
    /// `errorType` of the body, or what the header says.
    pub error_type: String,
    /// The body as it was posted.
    pub payload: Bytes,
}

/// Where the process stands, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Starting,
    InitFailed,
    Ready,
    Running,
    Answered,
}

#[derive(Debug)]
enum Phase {
    Starting,
    InitFailed(ReportedError),
    Ready,
    Running { request_id: String, deadline: Instant, reply: oneshot::Sender<Answer> },
    Answered,
}

impl Phase {
    fn progress(&self) -> Progress {
        match self {
            Self::Starting => Progress::Starting,
            Self::InitFailed(_) => Progress::InitFailed,
            Self::Ready => Progress::Ready,
            Self::Running { .. } => Progress::Running,
            Self::Answered => Progress::Answered,
        }
    }
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    pending: Option<(Invocation, oneshot::Sender<Answer>)>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    work: Notify,
    progress: watch::Sender<Progress>,
    extensions: Extensions,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, inner: &mut Inner, phase: Phase) -> Phase {
        let previous = std::mem::replace(&mut inner.phase, phase);
        self.progress.send_replace(inner.phase.progress());
        previous
    }

    /// Ends the running invocation with an answer, if the id is the running one and its time is not over.
    fn answer(&self, request_id: &str, answer: Answer) -> Result<(), ApiError> {
        let mut inner = self.lock();
        match &inner.phase {
            Phase::Running { request_id: running, deadline, .. }
                if running == request_id && Instant::now() <= *deadline => {}
            _ => return Err(ApiError::InvalidRequestId),
        }
        if let Phase::Running { reply, .. } = self.enter(&mut inner, Phase::Answered) {
            // Nobody listens when the sandbox is being torn down; the process then is on its way out, too.
            let _ = reply.send(answer);
        }
        Ok(())
    }
}

/// The Runtime API of one sandbox; the listener closes when it is dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: AbortHandle,
}

impl RuntimeApi {
    /// Starts listening on a free loopback port, for a sandbox of the function of that name.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn listen(function_name: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { phase: Phase::Starting, pending: None }),
            work: Notify::new(),
            progress: watch::Sender::new(Progress::Starting),
            extensions: Extensions::of(function_name),
        });
        let router = router(Arc::clone(&shared));
        // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms now and then.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let server = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { shared, address, server })
    }

    /// `127.0.0.1:port`, the value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process asks for work and every extension with interest in invocations is done.
    ///
    /// # Errors
    /// What the process reported when its start failed.
    pub async fn ready(&self) -> Result<(), ReportedError> {
        let mut progress = self.shared.progress.subscribe();
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = progress.wait_for(|now| matches!(now, Progress::Ready | Progress::InitFailed)).await;
        if let Phase::InitFailed(error) = &self.shared.lock().phase {
            return Err(error.clone());
        }
        self.shared.extensions.all_waiting().await;
        Ok(())
    }

    /// Hands an event to the process and returns where its answer will arrive. Call it when [`Self::ready`] said so.
    pub fn dispatch(&self, invocation: Invocation) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.shared.extensions.invoked(&invocation);
        self.shared.lock().pending = Some((invocation, reply));
        self.shared.work.notify_one();
        answer
    }

    /// Gives up the running invocation: an answer that still comes is refused.
    pub fn abandon(&self) {
        let mut inner = self.shared.lock();
        inner.pending = None;
        if matches!(inner.phase, Phase::Running { .. }) {
            self.shared.enter(&mut inner, Phase::Answered);
        }
    }

    /// Whether an extension registered, which earns the process a SIGTERM before it is killed.
    pub fn has_extensions(&self) -> bool {
        self.shared.extensions.any()
    }

    /// Tells the extensions that subscribed to it that the sandbox ends after `budget`.
    pub fn announce_shutdown(&self, budget: Duration) {
        self.shared.extensions.shut_down(budget);
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(&format!("{RUNTIME}/invocation/next"), get(next))
        .route(&format!("{RUNTIME}/invocation/{{id}}/response"), post(response))
        .route(&format!("{RUNTIME}/invocation/{{id}}/error"), post(error))
        .route(&format!("{RUNTIME}/init/error"), post(init_error))
        .route("/2018-06-01/ping", get(async || "pong"))
        .route("/ping", get(async || "pong"))
        .merge(extensions::routes())
        .with_state(shared)
}

async fn next(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    {
        let mut inner = shared.lock();
        match inner.phase {
            Phase::Starting | Phase::Ready | Phase::Answered => {
                shared.enter(&mut inner, Phase::Ready);
            }
            Phase::Running { .. } | Phase::InitFailed(_) => {
                return Err(ApiError::InvalidTransition { from: inner.phase.progress(), to: "Ready" });
            }
        }
    }
    loop {
        // A notification that nobody waits for is kept, so work that came before this line is not missed.
        let notified = shared.work.notified();
        {
            let mut inner = shared.lock();
            if let Some((invocation, reply)) = inner.pending.take() {
                let phase =
                    Phase::Running { request_id: invocation.request_id.clone(), deadline: invocation.deadline, reply };
                shared.enter(&mut inner, phase);
                return event(invocation).map_err(|_| ApiError::Internal);
            }
        }
        notified.await;
    }
}

fn event(invocation: Invocation) -> Result<Response, axum::http::Error> {
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header("lambda-runtime-aws-request-id", invocation.request_id)
        .header("lambda-runtime-deadline-ms", epoch_ms(invocation.deadline))
        .header("lambda-runtime-invoked-function-arn", invocation.arn)
        .header("lambda-runtime-trace-id", invocation.trace_id);
    // A context that no header can carry is left out.
    if let Some(context) = invocation.client_context.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok()) {
        response = response.header("lambda-runtime-client-context", context);
    }
    response.body(Body::from(invocation.payload))
}

/// Milliseconds since 1970 of a moment of the monotonic clock.
fn epoch_ms(moment: Instant) -> u64 {
    let left = moment.saturating_duration_since(Instant::now());
    let then = SystemTime::now() + left;
    then.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

async fn response(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    if let Some(mode) = request.headers().get("lambda-runtime-function-response-mode")
        && !mode.as_bytes().eq_ignore_ascii_case(b"streaming")
    {
        return Err(ApiError::InvalidResponseMode);
    }
    match read(request.into_body()).await {
        Ok((body, trailers)) => {
            let answer = match trailers.and_then(|trailers| mid_stream_error(&trailers)) {
                Some(error) => Answer::Error(error),
                None => Answer::Response(body),
            };
            shared.answer(&id, answer)?;
            Ok(accepted())
        }
        Err(ApiError::TooLarge) => {
            shared.answer(&id, Answer::TooLarge)?;
            Err(ApiError::TooLarge)
        }
        Err(other) => Err(other),
    }
}

async fn error(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let reported = reported(request, "Function.Unknown").await?;
    shared.answer(&id, Answer::Error(reported))?;
    Ok(accepted())
}

async fn init_error(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let reported = reported(request, "Runtime.Unknown").await?;
    let mut inner = shared.lock();
    if !matches!(inner.phase, Phase::Starting) {
        return Err(ApiError::InvalidTransition { from: inner.phase.progress(), to: "InitError" });
    }
    shared.enter(&mut inner, Phase::InitFailed(reported));
    Ok(accepted())
}
