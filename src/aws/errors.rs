//! Errors of the libraries, on one line with the whole cause.

use std::error::Error;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::error::ErrorMetadata;

/// A failed attempt at a call on one line: `causes`, and the status if there was an answer.
pub fn causes_and_status(error: &(dyn Error + 'static), answer: Option<&HttpResponse>) -> String {
    let causes = causes(error);
    match answer.map(HttpResponse::status) {
        Some(status) if !status.is_success() => format!("{causes} (status {})", status.as_u16()),
        _ => causes,
    }
}

/// An error and its causes on one line. What AWS answered (code and message) stands for the
/// SDK's wrappers around it; elsewhere a wrapper that only repeats its cause is left out.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref::<ErrorMetadata>() {
            Some(answer) => match (answer.code(), answer.message()) {
                (Some(code), message) => {
                    return one_line(&format!("{code}: {}", message.unwrap_or_default()));
                }
                (None, _) => "the answer has no error code".to_owned(),
            },
            None => one_line(&error.to_string()),
        };
        let wrapper = matches!(text.as_str(), "operation error" | "unhandled error");
        if !wrapper && texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// The code and message that AWS answered with, if that is what failed.
pub fn answered<'a>(error: &'a (dyn Error + 'static)) -> Option<(&'a str, &'a str)> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = error.downcast_ref::<ErrorMetadata>() {
            return Some((answer.code()?, answer.message().unwrap_or_default()));
        }
        next = error.source();
    }
    None
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ec2::operation::replace_route::ReplaceRouteError;

    #[test]
    fn what_aws_answered_stands_for_the_wrappers() {
        let answer = ErrorMetadata::builder()
            .code("UnauthorizedOperation")
            .message("You are not\nauthorized.")
            .build();
        let error = ReplaceRouteError::generic(answer);
        assert_eq!(
            causes(&error),
            "UnauthorizedOperation: You are not authorized."
        );
        let answer = ("UnauthorizedOperation", "You are not\nauthorized.");
        assert_eq!(answered(&error), Some(answer));
        let error = ReplaceRouteError::generic(ErrorMetadata::builder().build());
        assert_eq!(answered(&error), None);
        assert_eq!(causes(&error), "the answer has no error code");
    }
}
