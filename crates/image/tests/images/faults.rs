//! A registry that is broken, slow, or means harm.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use caisson_core::Digest;
use caisson_image::{Error, ImageStore, Login, Logins, Options, Registry};
use futures::{StreamExt, stream};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    fixture::{Made, OCI_MANIFEST, Place, digest, noise, reference, sample, tar, text},
    tools::{Mounted, insecure},
};

/// One request, as it was seen.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
}

impl Seen {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn is_about(&self, digest: Digest) -> bool {
        self.path.ends_with(&digest.to_string())
    }
}

/// What it does instead of what it should; the number is that of earlier requests for the same path.
type Mischief = Box<dyn Fn(&Seen, usize) -> Option<Response> + Send + Sync>;

struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Every repository has the image under every tag, and its blobs.
    async fn start(made: &Made, mischief: impl Fn(&Seen, usize) -> Option<Response> + Send + Sync + 'static) -> Self {
        let blobs: HashMap<String, Bytes> = made.blobs().map(|blob| (digest(blob).to_string(), Bytes::from(blob.clone()))).collect();
        let (manifest, mischief): (Bytes, Mischief) = (made.manifest.clone().into(), Box::new(mischief));
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (listener, log) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::clone(&seen));
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new((blobs, manifest, mischief));
        let router = Router::new().fallback(move |request: Request| {
            let (state, log) = (Arc::clone(&state), Arc::clone(&log));
            async move {
                let uri = request.uri();
                let seen = Seen {
                    method: request.method().clone(),
                    path: uri.path().to_owned(),
                    query: uri.query().unwrap_or_default().to_owned(),
                    headers: request.headers().clone(),
                };
                let earlier = {
                    let mut log = log.lock().unwrap();
                    let earlier = log.iter().filter(|other| other.path == seen.path).count();
                    log.push(seen.clone());
                    earlier
                };
                let (blobs, manifest, mischief) = &*state;
                if let Some(response) = mischief(&seen, earlier) {
                    return response;
                }
                let last = seen.path.rsplit('/').next().unwrap_or_default();
                match blobs.get(last) {
                    Some(blob) if blob != manifest => part(blob, &seen),
                    _ if seen.path.contains("/manifests/") => ([(header::CONTENT_TYPE, OCI_MANIFEST)], manifest.clone()).into_response(),
                    _ => StatusCode::NOT_FOUND.into_response(),
                }
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, seen, task }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn place(&self) -> Place {
        Place::with(insecure(&self.host)).await
    }

    async fn pull(&self, place: &Place) -> Result<(), Arc<Error>> {
        self.pull_with(place, Logins::none()).await
    }

    async fn pull_with(&self, place: &Place, logins: Logins) -> Result<(), Arc<Error>> {
        place.store.pull(reference(&format!("{}/team/app:1", self.host)), logins).finish().await.map(|_| ())
    }
}

/// As registries answer to `Range`.
fn part(blob: &Bytes, seen: &Seen) -> Response {
    let from = seen.header(header::RANGE).strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], blob.slice(from..)).into_response()
        }
        None => blob.clone().into_response(),
    }
}

/// Announces everything, and breaks off after so many bytes.
fn cut(blob: &[u8], after: usize) -> Response {
    let begin = stream::iter([Ok(Bytes::copy_from_slice(&blob[..after]))]);
    let end = stream::once(async {
        // Until then the server has sent what came before.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Err(std::io::Error::other("cut"))
    });
    ([(header::CONTENT_LENGTH, blob.len())], Body::from_stream(begin.chain(end))).into_response()
}

fn redirect(to: String) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
}

fn challenge(what: String) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, what)]).into_response()
}

fn login(host: &str) -> Logins {
    let mut logins = Logins::none();
    logins.add(host, Login { user: "user".into(), password: "secret".into() }).unwrap();
    logins
}

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A pull is refused with an error, and nothing can be seen of it.
async fn refused(made: &Made, mischief: impl Fn(&Seen, usize) -> Option<Response> + Send + Sync + 'static) -> Arc<Error> {
    let server = Server::start(made, mischief).await;
    let place = server.place().await;
    let error = server.pull(&place).await.unwrap_err();
    place.nothing_begun();
    assert_eq!(place.store.list().await.unwrap(), []);
    error
}

#[tokio::test]
async fn a_second_pull_asks_for_the_manifest_alone() {
    let server = Server::start(&sample(), |_, _| None).await;
    let place = server.place().await;
    server.pull(&place).await.unwrap();
    let first = server.seen();
    assert_eq!(first.len(), 5, "manifest, configuration and three layers: {first:?}");
    server.pull(&place).await.unwrap();
    let second: Vec<_> = server.seen().drain(first.len()..).collect();
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(second[0].path.ends_with("/manifests/1"));
}

#[tokio::test]
async fn pulls_of_one_image_are_one() {
    let server = Server::start(&sample(), |_, _| None).await;
    let place = server.place().await;
    let pulls: Vec<_> = (0..10).map(|_| server.pull(&place)).collect();
    for end in futures::future::join_all(pulls).await {
        end.unwrap();
    }
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn what_breaks_off_goes_on_where_it_was() {
    let made = sample();
    let blob = made.layers[0].0.clone();
    let (id, half) = (digest(&blob), blob.len() / 2);
    let server = Server::start(&made, move |seen, earlier| (seen.is_about(id) && earlier == 0).then(|| cut(&blob, half))).await;
    let place = server.place().await;
    server.pull(&place).await.unwrap();
    let ranges: Vec<_> = server.seen().iter().filter(|seen| seen.is_about(id)).map(|seen| seen.header(header::RANGE).to_owned()).collect();
    assert_eq!((ranges.len(), ranges[0].as_str()), (2, ""));
    let from: usize = ranges[1].strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!(from > 0 && from <= half, "{from} of {half}");
}

#[tokio::test]
async fn a_registry_that_cannot_go_on_begins_again() {
    let made = sample();
    let blob = made.layers[0].0.clone();
    let id = digest(&blob);
    let server = Server::start(&made, move |seen, earlier| match earlier {
        _ if !seen.is_about(id) => None,
        0 => Some(cut(&blob, blob.len() / 2)),
        _ => Some(blob.clone().into_response()),
    })
    .await;
    server.pull(&server.place().await).await.unwrap();
}

#[tokio::test]
async fn r5_3_bytes_that_are_not_what_was_announced_are_refused() {
    let made = sample();
    let blob = made.layers[1].0.clone();
    let id = digest(&blob);
    let of = move |answer: fn(&[u8]) -> Response| {
        let blob = blob.clone();
        move |seen: &Seen, _: usize| seen.is_about(id).then(|| answer(&blob))
    };
    let flipped = |blob: &[u8]| {
        let mut other = blob.to_vec();
        other[20] ^= 1;
        other.into_response()
    };
    let error = refused(&made, of(flipped)).await;
    assert!(matches!(*error, Error::Digest { expected, .. } if expected == id), "{error}");
    let error = refused(&made, of(|blob| [blob, b"more"].concat().into_response())).await;
    assert!(matches!(*error, Error::Size { .. }), "{error}");
    // Without saying how long it is.
    let endless = |blob: &[u8]| {
        let piece = Bytes::copy_from_slice(blob);
        Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()))).into_response()
    };
    let error = refused(&made, of(endless)).await;
    assert!(matches!(*error, Error::Size { .. }), "{error}");
    let error = refused(&made, of(|blob| blob[..10].to_vec().into_response())).await;
    assert!(matches!(*error, Error::Size { .. }), "{error}");
    let error = refused(&made, of(|blob| cut(blob, 0))).await;
    assert!(matches!(*error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn r5_3_manifests_are_bounded_and_verified() {
    let made = sample();
    let error = refused(&made, |seen, _| seen.path.contains("/manifests/").then(|| vec![b' '; 5 << 20].into_response())).await;
    assert!(matches!(*error, Error::Size { .. }), "{error}");
    let endless = || Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'['; 8192])))).into_response();
    let error = refused(&made, move |seen, _| seen.path.contains("/manifests/").then(endless)).await;
    assert!(matches!(*error, Error::Size { .. }), "{error}");
    let config = digest(&made.config);
    let error = refused(&made, move |seen, _| seen.is_about(config).then(|| vec![b'{'; 5 << 20].into_response())).await;
    assert!(matches!(*error, Error::Size { .. }), "{error}");
    let server = Server::start(&made, |_, _| None).await;
    let place = server.place().await;
    let other = format!("{}/app@{}", server.host, digest(b"other"));
    let error = place.store.pull(reference(&other), Logins::none()).finish().await.unwrap_err();
    assert!(matches!(*error, Error::Digest { .. }), "{error}");
    // What a manifest announces counts, before anything is fetched.
    let mut huge = sample();
    huge.describe(|manifest| manifest["layers"][0]["size"] = serde_json::json!(1_u64 << 40));
    let server = Server::start(&huge, |_, _| None).await;
    let error = server.pull(&server.place().await).await.unwrap_err();
    assert!(matches!(*error, Error::TooBig { .. }) && server.seen().len() == 2, "{error}");
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine() {
    let made = sample();
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let index = |os: &str| {
        let mut entry = crate::fixture::descriptor(OCI_MANIFEST, &made.manifest);
        entry["platform"] = serde_json::json!({ "os": os, "architecture": architecture });
        serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] }).to_string()
    };
    let (ours, theirs) = (index("linux"), index("plan9"));
    let server = Server::start(&made, move |seen, _| seen.path.ends_with("/manifests/1").then(|| ours.clone().into_response())).await;
    server.pull(&server.place().await).await.unwrap();
    let error = refused(&made, move |seen, _| seen.path.ends_with("/manifests/1").then(|| theirs.clone().into_response())).await;
    assert!(matches!(*error, Error::Platform { .. }) && error.to_string().contains("plan9/"), "{error}");
}

#[tokio::test]
async fn what_passes_is_asked_again_and_what_stays_is_said() {
    let made = sample();
    let blob = digest(&made.layers[0].0);
    let server = Server::start(&made, move |seen, earlier| match (seen.is_about(blob), earlier) {
        (true, 0) => Some(StatusCode::BAD_GATEWAY.into_response()),
        (true, 1) => Some((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response()),
        _ => None,
    })
    .await;
    let begun = Instant::now();
    server.pull(&server.place().await).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it asked for a second");
    let status = |status: StatusCode| move |_: &Seen, _: usize| Some(status.into_response());
    let error = refused(&made, status(StatusCode::SERVICE_UNAVAILABLE)).await;
    assert!(matches!(*error, Error::Registry { .. }) && error.to_string().contains("503"), "{error}");
    assert!(matches!(*refused(&made, status(StatusCode::FORBIDDEN)).await, Error::Denied { .. }));
    assert!(matches!(*refused(&made, status(StatusCode::NOT_FOUND)).await, Error::NotFound { .. }));
    assert!(matches!(*refused(&made, status(StatusCode::UNAUTHORIZED)).await, Error::Registry { .. }));
    let begun = Instant::now();
    let limited = |_: &Seen, _: usize| Some((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "3600")]).into_response());
    let error = refused(&made, limited).await;
    assert!(matches!(*error, Error::RateLimited { .. }) && error.to_string().contains("3600 seconds"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for an hour");
}

#[tokio::test]
async fn r5_3_redirects_get_no_login() {
    let made = sample();
    let blob = digest(&made.layers[0].0);
    let other = Server::start(&made, |_, _| None).await;
    let to = other.host.clone();
    let server = Server::start(&made, move |seen, _| match seen.header(header::AUTHORIZATION) {
        "" => Some(challenge("Basic realm=\"x\"".to_owned())),
        _ => seen.is_about(blob).then(|| redirect(format!("http://{to}/v2/x/blobs/{blob}"))),
    })
    .await;
    let mut options = insecure(&server.host);
    options.registries.add(&other.host, Registry { insecure: true, mirrors: vec![] }).unwrap();
    let place = Place::with(options).await;
    server.pull_with(&place, login(&server.host)).await.unwrap();
    assert!(server.seen().iter().skip(1).all(|seen| seen.header(header::AUTHORIZATION) == BASIC));
    assert_eq!(other.seen().len(), 1);
    assert_eq!(other.seen()[0].header(header::AUTHORIZATION), "");
    // A login is for its own registry, and for no other.
    let place = server.place().await;
    let error = server.pull_with(&place, login(&other.host)).await.unwrap_err();
    assert!(matches!(*error, Error::Denied { logged_in: false, .. }), "{error}");
}

#[tokio::test]
async fn r5_3_redirects_lead_nowhere_that_is_not_spelled_out() {
    let (made, inner) = (sample(), Server::start(&sample(), |_, _| None).await);
    let blob = digest(&made.layers[0].0);
    let local = format!("http://{}/v2/x/blobs/{blob}", inner.host);
    for to in [
        local.as_str(),
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://localhost/",
        "file:///etc/passwd",
    ] {
        let to = to.to_owned();
        let error = refused(&made, move |seen, _| seen.is_about(blob).then(|| redirect(to.clone()))).await;
        assert!(matches!(*error, Error::Forbidden { .. }), "{}", text(&*error));
    }
    assert_eq!(inner.seen().len(), 0);
    let error = refused(&made, move |seen, _| seen.is_about(blob).then(|| redirect(seen.path.clone()))).await;
    assert!(error.to_string().contains("do not end"), "{error}");
}

#[tokio::test]
async fn tokens_are_fetched_where_the_registry_says() {
    let made = sample();
    let tokens = Server::start(&made, |seen, _| {
        assert_eq!(seen.query, "service=the+registry&scope=repository%3Ateam%2Fapp%3Apull");
        Some(
            if seen.header(header::AUTHORIZATION) == BASIC { r#"{"token":"good"}"# } else { r#"{"access_token":"anonymous"}"# }
                .into_response(),
        )
    })
    .await;
    let realm = format!("http://{}/token", tokens.host);
    let server = Server::start(&made, move |seen, _| match seen.header(header::AUTHORIZATION) {
        "Bearer good" => None,
        _ => Some(challenge(format!("Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:other:push\""))),
    })
    .await;
    let mut options = insecure(&server.host);
    options.registries.add(&tokens.host, Registry { insecure: true, mirrors: vec![] }).unwrap();
    let place = Place::with(options).await;
    server.pull_with(&place, login(&server.host)).await.unwrap();
    assert_eq!(tokens.seen().len(), 1, "one token is enough for all");
    assert!(server.seen().iter().all(|seen| seen.header(header::AUTHORIZATION) != BASIC));
    let error = server.pull(&place).await.unwrap_err();
    assert!(matches!(*error, Error::Denied { logged_in: false, .. }), "{error}");
}

#[tokio::test]
async fn r5_3_a_login_goes_to_no_token_server_over_plain_http() {
    let made = sample();
    let thief = Server::start(&made, |_, _| Some(r#"{"token":"good"}"#.into_response())).await;
    let realms =
        [format!("http://{}/token", thief.host), "http://example.com/".to_owned(), "https://127.0.0.1/".to_owned(), "nowhere".to_owned()];
    for realm in realms {
        let server = Server::start(&made, move |_, _| Some(challenge(format!("Bearer realm=\"{realm}\"")))).await;
        let place = server.place().await;
        let error = server.pull_with(&place, login(&server.host)).await.unwrap_err();
        assert!(matches!(*error, Error::Forbidden { .. } | Error::Registry { .. }), "{error}");
    }
    assert_eq!(thief.seen().len(), 0);
}

#[tokio::test]
async fn r5_3_layers_of_others_are_not_had_by_their_digests() {
    let made = sample();
    let owner = Server::start(&made, |_, _| None).await;
    // It says that it has everything, and gives nothing but the manifest and the configuration.
    let layers: Vec<Digest> = made.layers.iter().map(|layer| digest(&layer.0)).collect();
    let thief = Server::start(&made, move |seen, _| {
        let is_layer = layers.iter().any(|layer| seen.is_about(*layer));
        (is_layer && seen.method == Method::GET).then(|| StatusCode::NOT_FOUND.into_response())
    })
    .await;
    let mut options = insecure(&owner.host);
    options.registries.add(&thief.host, Registry { insecure: true, mirrors: vec![] }).unwrap();
    let place = Place::with(options).await;
    owner.pull(&place).await.unwrap();
    assert!(matches!(&*thief.pull(&place).await.unwrap_err(), Error::NotFound { .. }));
    // Another repository of the same registry is asked whether it would give them.
    let before = owner.seen().len();
    let other = reference(&format!("{}/other/app:1", owner.host));
    place.store.pull(other, Logins::none()).finish().await.unwrap();
    let asked: Vec<_> = owner.seen().drain(before..).filter(|seen| seen.method == Method::HEAD).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends() {
    let made = sample();
    let blob = digest(&made.layers[0].0);
    let stalled = || {
        let begin = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"begin"))]);
        Body::from_stream(begin.chain(stream::pending())).into_response()
    };
    let server = Server::start(&made, move |seen, _| seen.is_about(blob).then(stalled)).await;
    let place = server.place().await;
    let mut pull = Box::pin(server.pull(&place));
    while !server.seen().iter().any(|seen| seen.is_about(blob)) {
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut pull).await.is_err(), "it cannot end");
    }
    drop(pull);
    for _ in 0..500 {
        let begun =
            std::fs::read_dir(place.root().join("tmp")).unwrap().any(|own| std::fs::read_dir(own.unwrap().path()).unwrap().count() > 0);
        if !begun {
            return assert_eq!(place.store.list().await.unwrap(), []);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something of it is left");
}

#[tokio::test]
async fn a_disk_that_is_full_in_the_middle_changes_nothing() {
    let made = Made::new(&[tar(&[("a", &noise(1, 1_000_000))]), tar(&[("b", &noise(2, 3_000_000))])]);
    let server = Server::start(&made, |_, _| None).await;
    let mounted = Mounted::tmpfs("4m");
    let directory = tempfile::tempdir_in(mounted.path()).unwrap();
    let store = ImageStore::open(directory.path().join("images"), insecure(&server.host)).await.unwrap();
    let place = Place { directory, store };
    let error = server.pull(&place).await.unwrap_err();
    assert!(matches!(*error, Error::DiskFull { .. }), "{}", text(&*error));
    place.nothing_visible().await;
    assert_eq!(place.content(), [] as [&str; 0]);
    drop((place, mounted));
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let place = Place::with(insecure(&host)).await;
    let error = place.store.pull(reference(&format!("{host}/x")), Logins::none()).finish().await.unwrap_err();
    assert!(matches!(*error, Error::Unreachable { .. }) && text(&*error).contains("refused"), "{}", text(&*error));
    let place = Place::with(Options::default()).await;
    for name in ["169.254.169.254/x", "127.0.0.1/x", "[::1]:5000/x", "localhost/x"] {
        let error = place.store.pull(reference(name), Logins::none()).finish().await.unwrap_err();
        assert!(matches!(*error, Error::Forbidden { .. }), "{name}: {}", text(&*error));
    }
}
