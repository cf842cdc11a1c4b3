//! Agents that let the time go by. The clock is tokio's own, so nobody waits.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{ANSWER_WITHIN, AgentClient, AgentError, Ask, LOOK_WITHIN, checkpoint, connect};
use crate::{
    patch::{MAX_PATCH, MAX_TIME},
    request::FileAttributes,
};

/// Takes every request and answers none; of bodies it reads the first `reads` pieces.
async fn silent(reads: usize) -> AgentClient {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let service = service_fn(move |request: http::Request<Incoming>| async move {
        let mut body = request.into_body();
        for _ in 0..reads {
            body.frame().await;
        }
        std::future::pending::<()>().await;
        Ok::<_, io::Error>(http::Response::new(Empty::<Bytes>::new()))
    });
    tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service));
    connect(Box::new(ours), &TaskTracker::new()).await.unwrap().0
}

#[track_caller]
fn is_silent<T: std::fmt::Debug>(result: Result<T, AgentError>, begun: Instant, within: Duration) {
    assert!(matches!(result, Err(AgentError::Silent(said)) if said == within), "{result:?}");
    assert!(begun.elapsed() >= within && begun.elapsed() < within * 2 + Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn r5_4_every_question_has_its_time() {
    let agent = silent(0).await;
    let begun = Instant::now();
    let five = Duration::from_secs(5);
    is_silent(agent.health(five).await, begun, five);
    let begun = Instant::now();
    is_silent(agent.which(vec!["sh".to_owned()]).await, begun, LOOK_WITHIN);
    let begun = Instant::now();
    is_silent(agent.stat(b"/a").await, begun, LOOK_WITHIN);
    let begun = Instant::now();
    is_silent(agent.list(b"/", 1, 1, None).await, begun, ANSWER_WITHIN);
    let begun = Instant::now();
    is_silent(agent.delete(b"/a", true).await, begun, ANSWER_WITHIN);
    let begun = Instant::now();
    is_silent(agent.put(b"/a", None, Bytes::new()).await, begun, ANSWER_WITHIN);
    let begun = Instant::now();
    is_silent(agent.get(b"/a", 0, None).await.map(|(stat, _)| stat), begun, ANSWER_WITHIN);
    let begun = Instant::now();
    is_silent(agent.checkpoint(b"/a", ASK).await, begun, MAX_TIME + checkpoint::GRACE);
}

const ASK: Ask = Ask { gitignore: true, utf8: false, patch: true, keep: true };

/// Answers everything with this header and body.
async fn answers(header: Option<String>, body: &'static [u8]) -> AgentClient {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let service = service_fn(move |_: http::Request<Incoming>| {
        let header = header.clone();
        async move {
            let mut answer = http::Response::new(Full::new(Bytes::from_static(body)));
            if let Some(header) = header {
                answer.headers_mut().insert(caisson_wire::CHECKPOINT_HEADER, header.parse().unwrap());
            }
            Ok::<_, io::Error>(answer)
        }
    });
    tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), service));
    connect(Box::new(ours), &TaskTracker::new()).await.unwrap().0
}

#[tokio::test]
async fn r5_4_a_patch_is_as_long_as_it_says_and_no_longer_than_it_may_be() {
    let figures = |patch: &str| Some(format!(r#"{{"files": 1, "changed": 1, "unreadable": 0, "patch": {patch}}}"#));
    let good = answers(figures("5"), b"patch").await.checkpoint(b"/a", ASK).await.unwrap();
    assert_eq!((good.files, good.changed, good.patch.as_deref()), (1, 1, Some(&b"patch"[..])));
    assert_eq!(answers(figures("null"), b"").await.checkpoint(b"/a", ASK).await.unwrap().patch, None);
    let unasked = Ask { patch: false, ..ASK };
    for (header, ask) in [
        (None, ASK),
        (Some("{}".to_owned()), ASK),
        (figures("-1"), ASK),
        (figures("4"), ASK),
        (figures("6"), ASK),
        (figures("null"), ASK),
        (figures(&(MAX_PATCH + 1).to_string()), ASK),
        (figures("5"), unasked),
    ] {
        let result = answers(header.clone(), b"patch").await.checkpoint(b"/a", ask).await;
        assert!(matches!(result, Err(AgentError::Nonsense(_))), "{header:?}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r5_4_an_upload_that_the_agent_does_not_take_ends() {
    for reads in [0, 3] {
        let agent = silent(reads).await;
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65536])));
        let begun = Instant::now();
        is_silent(agent.put_stream(b"/a", FileAttributes::default(), Box::pin(endless)).await, begun, ANSWER_WITHIN);
    }
    let agent = silent(100).await;
    let begun = Instant::now();
    let all_sent = stream::iter([Ok(Bytes::from_static(b"all of it"))]);
    is_silent(agent.put_stream(b"/a", FileAttributes::default(), Box::pin(all_sent)).await, begun, ANSWER_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not_the_agents_fault() {
    let agent = silent(1_000).await;
    let slow = stream::iter(0..10).then(|_| async {
        tokio::time::sleep(ANSWER_WITHIN * 3).await;
        Ok(Bytes::from_static(b"piece"))
    });
    let begun = Instant::now();
    let result = agent.put_stream(b"/a", FileAttributes::default(), Box::pin(slow)).await;
    assert!(matches!(result, Err(AgentError::Silent(_))), "{result:?}");
    assert!(begun.elapsed() >= ANSWER_WITHIN * 31, "{:?}", begun.elapsed());
}
