//! What can go wrong, and how the JSON protocol says it.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// Why an operation on a queue did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SqsError {
    /// The queue was never made, or deleted.
    #[error("there is no queue {0}")]
    NoSuchQueue(String),
    /// The request itself is wrong; the same request will be refused again.
    #[error("{message}")]
    Refused {
        /// Which rule it breaks.
        fault: Fault,
        /// AWS's sentence on it.
        message: String,
    },
    /// Redis did not answer, or not in time; the operation may still have happened. Trying again later is right.
    #[error("the queues in Redis at {address} cannot be reached: {reason}")]
    Unavailable {
        /// Host and port.
        address: String,
        /// What the connection reported.
        reason: String,
    },
}

/// Rules of SQS that a request can break, by the names of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the API reference")]
pub enum Fault {
    BatchEntryIdsNotDistinct,
    BatchRequestTooLong,
    EmptyBatchRequest,
    InvalidAddress,
    InvalidAttributeName,
    InvalidAttributeValue,
    InvalidBatchEntryId,
    InvalidMessageContents,
    InvalidParameterValue,
    MissingParameter,
    OverLimit,
    PurgeQueueInProgress,
    QueueDeletedRecently,
    QueueDoesNotExist,
    QueueNameExists,
    ReceiptHandleIsInvalid,
    Serialization,
    TooManyEntriesInBatchRequest,
    UnknownOperation,
    UnsupportedOperation,
}

impl Fault {
    /// The error with its sentence.
    pub(super) fn because(self, message: impl Into<String>) -> SqsError {
        SqsError::Refused { fault: self, message: message.into() }
    }

    /// `__type` in the body: newer SDKs read this one.
    fn shape(self) -> &'static str {
        match self {
            Self::BatchEntryIdsNotDistinct => "com.amazonaws.sqs#BatchEntryIdsNotDistinct",
            Self::BatchRequestTooLong => "com.amazonaws.sqs#BatchRequestTooLong",
            Self::EmptyBatchRequest => "com.amazonaws.sqs#EmptyBatchRequest",
            Self::InvalidAddress => "com.amazonaws.sqs#InvalidAddress",
            Self::InvalidAttributeName => "com.amazonaws.sqs#InvalidAttributeName",
            Self::InvalidAttributeValue => "com.amazonaws.sqs#InvalidAttributeValue",
            Self::InvalidBatchEntryId => "com.amazonaws.sqs#InvalidBatchEntryId",
            Self::InvalidMessageContents => "com.amazonaws.sqs#InvalidMessageContents",
            Self::InvalidParameterValue => "com.amazonaws.sqs#InvalidParameterValueException",
            Self::MissingParameter => "com.amazonaws.sqs#MissingRequiredParameterException",
            Self::OverLimit => "com.amazonaws.sqs#OverLimit",
            Self::PurgeQueueInProgress => "com.amazonaws.sqs#PurgeQueueInProgress",
            Self::QueueDeletedRecently => "com.amazonaws.sqs#QueueDeletedRecently",
            Self::QueueDoesNotExist => "com.amazonaws.sqs#QueueDoesNotExist",
            Self::QueueNameExists => "com.amazonaws.sqs#QueueNameExists",
            Self::ReceiptHandleIsInvalid => "com.amazonaws.sqs#ReceiptHandleIsInvalid",
            Self::Serialization => "com.amazon.coral.service#SerializationException",
            Self::TooManyEntriesInBatchRequest => "com.amazonaws.sqs#TooManyEntriesInBatchRequest",
            Self::UnknownOperation => "com.amazon.coral.service#UnknownOperationException",
            Self::UnsupportedOperation => "com.amazonaws.sqs#UnsupportedOperation",
        }
    }

    /// Code in `x-amzn-query-error` and in entries of batches: what SDKs report.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::BatchEntryIdsNotDistinct => "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            Self::BatchRequestTooLong => "AWS.SimpleQueueService.BatchRequestTooLong",
            Self::EmptyBatchRequest => "AWS.SimpleQueueService.EmptyBatchRequest",
            Self::InvalidAddress => "InvalidAddress",
            Self::InvalidAttributeName => "InvalidAttributeName",
            Self::InvalidAttributeValue => "InvalidAttributeValue",
            Self::InvalidBatchEntryId => "AWS.SimpleQueueService.InvalidBatchEntryId",
            Self::InvalidMessageContents => "InvalidMessageContents",
            Self::InvalidParameterValue => "InvalidParameterValue",
            Self::MissingParameter => "MissingParameter",
            Self::OverLimit => "OverLimit",
            Self::PurgeQueueInProgress => "AWS.SimpleQueueService.PurgeQueueInProgress",
            Self::QueueDeletedRecently => "AWS.SimpleQueueService.QueueDeletedRecently",
            Self::QueueDoesNotExist => "AWS.SimpleQueueService.NonExistentQueue",
            Self::QueueNameExists => "QueueAlreadyExists",
            Self::ReceiptHandleIsInvalid => "ReceiptHandleIsInvalid",
            Self::Serialization => "SerializationException",
            Self::TooManyEntriesInBatchRequest => "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnsupportedOperation => "AWS.SimpleQueueService.UnsupportedOperation",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::OverLimit | Self::PurgeQueueInProgress => StatusCode::FORBIDDEN,
            Self::InvalidAddress => StatusCode::NOT_FOUND,
            Self::BatchEntryIdsNotDistinct
            | Self::BatchRequestTooLong
            | Self::EmptyBatchRequest
            | Self::InvalidAttributeName
            | Self::InvalidAttributeValue
            | Self::InvalidBatchEntryId
            | Self::InvalidMessageContents
            | Self::InvalidParameterValue
            | Self::MissingParameter
            | Self::QueueDeletedRecently
            | Self::QueueDoesNotExist
            | Self::QueueNameExists
            | Self::ReceiptHandleIsInvalid
            | Self::Serialization
            | Self::TooManyEntriesInBatchRequest
            | Self::UnknownOperation
            | Self::UnsupportedOperation => StatusCode::BAD_REQUEST,
        }
    }
}

impl SqsError {
    /// The error as a client of the JSON protocol sees it.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        match self {
            Self::NoSuchQueue(_) => failure(Fault::QueueDoesNotExist, "The specified queue does not exist."),
            Self::Refused { fault, message } => failure(*fault, message),
            // Where Redis stands is no client's business.
            Self::Unavailable { .. } => respond(
                StatusCode::INTERNAL_SERVER_ERROR,
                Some("InternalError;Receiver"),
                &serde_json::json!({
                    "__type": "com.amazonaws.sqs#InternalError",
                    "message": "We encountered an internal error. Please try again.",
                }),
            ),
        }
    }
}

fn failure(fault: Fault, message: &str) -> Response<Full<Bytes>> {
    respond(
        fault.status(),
        Some(&format!("{};Sender", fault.code())),
        &serde_json::json!({"__type": fault.shape(), "message": message}),
    )
}

/// A response of the JSON protocol.
pub(super) fn respond(
    status: StatusCode,
    query_error: Option<&str>,
    body: &serde_json::Value,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert("x-amzn-requestid", id);
    }
    if let Some(Ok(code)) = query_error.map(HeaderValue::from_str) {
        headers.insert("x-amzn-query-error", code);
    }
    response
}
