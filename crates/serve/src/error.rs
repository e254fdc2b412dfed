//! Errors in the form that clients of OpenAI's API expect. Each says what is wrong, which field it is about, and what to do.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// Most bytes of a message, and of the path of a field. They may repeat what a client has sent.
const LONGEST: usize = 1000;

/// A request that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field that is wrong, as a path.
    param: Option<String>,
    code: Option<&'static str>,
    /// Seconds after which another try makes sense.
    retry_after: Option<u64>,
    /// Whether trying again cannot help.
    is_final: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let (param, retry_after, is_final) = (None, None, false);
        Self { status, message: shortened(message.into()), param, code: Some(code), retry_after, is_final }
    }

    /// A field that is wrong.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        Self { param: Some(shortened(param.into())), ..error }
    }

    /// A body that is wrong as a whole.
    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    }

    /// More is asked than can be done now.
    pub(crate) fn busy(seconds: u64, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { retry_after: Some(seconds), ..error }
    }

    /// The server is about to end.
    pub(crate) fn draining() -> Self {
        let message = "the server is shutting down and takes no new requests: try again when it is back";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message);
        Self { retry_after: Some(5), ..error }
    }

    /// The same with a code of its own.
    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The same with a status of its own.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same, and clients are told that another try is of no use.
    pub(crate) fn for_good(self) -> Self {
        Self { is_final: true, ..self }
    }

    /// The same, with the name of a field changed to the one that the client knows.
    pub(crate) fn renamed(self, from: &str, to: &str) -> Self {
        let param = self.param.map(|param| if param == from { to.to_owned() } else { param });
        Self { param, ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether another try may help.
    pub(crate) fn is_passing(&self) -> bool {
        self.retry_after.is_some()
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> Value {
        let Self { message, param, code, .. } = self;
        json!({"error": {"message": message, "type": self.kind(), "param": param, "code": code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = answer(self.status, &self.to_json());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_final {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        // Other APIs have another form for it.
        response.extensions_mut().insert(self);
        response
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text += " ...";
    }
    text
}

/// A JSON answer.
pub(crate) fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
