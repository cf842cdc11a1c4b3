//! What a request is about that one server alone can answer.

use std::sync::Arc;

use axum::extract::Request;
use caisson_core::{ExecutionId, Hosted, SandboxId, ServerId, Uuid};
use futures::future::BoxFuture;

use crate::{caller::View, dialects, error::ApiResult};

/// What a request of a dialect's is about.
pub(crate) type About = for<'a> fn(&'a Arc<View>, &'a mut Request) -> BoxFuture<'a, ApiResult<Option<Whose>>>;

/// What decides which server is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Hosted(Hosted),
    Server(ServerId),
}

/// What a request is about, where that matters.
pub(super) async fn about(view: &Arc<View>, request: &mut Request) -> ApiResult<Option<Whose>> {
    match dialects::of(request.uri().path()) {
        Some(dialect) => (dialect.about)(view, request).await,
        None => Ok(native(request.uri().path())),
    }
}

/// The first segment of a path that is a sandbox, in either spelling.
pub(crate) fn in_path(path: &str) -> Option<Whose> {
    let id = |segment: &str| segment.parse().ok().or_else(|| SandboxId::from_uuid(segment.parse::<Uuid>().ok()?));
    path.split('/').find_map(id).map(|id| Whose::Hosted(Hosted::Sandbox(id)))
}

fn native(path: &str) -> Option<Whose> {
    let segment = |rest: &'static str| path.strip_prefix(rest).map(|rest| rest.split('/').next().unwrap_or_default());
    let sandbox = || segment("/v1/sandboxes/")?.parse::<SandboxId>().ok().map(Hosted::Sandbox);
    let execution = || segment("/v1/executions/")?.parse::<ExecutionId>().ok().map(Hosted::Execution);
    sandbox().or_else(execution).map(Whose::Hosted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_they_are_about() {
        let (sandbox, execution) = (SandboxId::random(), ExecutionId::random());
        let (a_sandbox, an_execution) = (Some(Whose::Hosted(Hosted::Sandbox(sandbox))), Some(Whose::Hosted(Hosted::Execution(execution))));
        for (path, expect) in [
            (format!("/v1/sandboxes/{sandbox}"), a_sandbox),
            (format!("/v1/sandboxes/{sandbox}/ports/80/{execution}"), a_sandbox),
            (format!("/v1/executions/{execution}/output"), an_execution),
            (format!("/v1/sandboxes/{execution}"), None),
            (format!("/v1/workspaces/{sandbox}"), None),
            ("/v1/sandboxes".to_owned(), None),
            ("/v1/run".to_owned(), None),
        ] {
            assert_eq!(native(&path), expect, "{path}");
        }
        for path in [format!("/v1/sandbox/{sandbox}/exec"), format!("/session/{}", sandbox.uuid())] {
            assert_eq!(in_path(&path), a_sandbox, "{path}");
        }
        assert_eq!(in_path("/session"), None);
    }
}
