use std::os::unix::{ffi::OsStringExt, fs::PermissionsExt};

use super::*;

/// A configuration from a file's text, variables and flags.
struct Given {
    sources: Sources,
    _dir: tempfile::TempDir,
}

fn given(file: &str, variables: &[(&str, &str)], flags: &[(Setting, &str)]) -> Given {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("caisson.toml");
    std::fs::write(&path, file).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let environment = Environment(variables.iter().map(|(name, value)| (name.into(), value.into())).collect());
    let flags = flags.iter().map(|(key, value)| (*key, "--flag", (*value).to_owned())).collect();
    Given { sources: Sources { file: Some((path, true)), environment, flags }, _dir: dir }
}

impl Given {
    fn read(&self) -> Result<Config, Problems> {
        Config::read(&self.sources, &Surroundings { is_root: true, ..Surroundings::default() })
    }

    #[track_caller]
    fn problems(&self) -> Vec<String> {
        self.read().expect_err("there is a problem").0
    }
}

#[track_caller]
fn refused(variables: &[(&str, &str)], words: &[&str]) {
    let problems = given("", variables, &[]).problems();
    assert!(problems.len() == 1 && words.iter().all(|word| problems[0].contains(word)), "{problems:#?}");
}

#[test]
fn nothing_given_is_a_server_for_this_machine() {
    let config = given("", &[], &[]).read().unwrap();
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!((config.access, config.data_dir), (Access::StoredKey, PathBuf::from("/var/lib/caisson")));
    assert_eq!((config.log.as_str(), config.log_format), ("info", logging::Format::Text));
    assert_eq!((config.max_sandboxes, config.output_log, config.inline_output), (2000, 64 << 20, 1 << 20));
}

#[test]
fn later_layers_win() {
    let file = "log = 'file'\nmax_sandboxes = 1\nretention = '1d'\nlisten = ['127.0.0.1:1', '[::1]:1']\n";
    let variables = [("CAISSON_LOG", "environment"), ("CAISSON_MAX_SANDBOXES", "2")];
    let config = given(file, &variables, &[(Setting::Log, "flag")]).read().unwrap();
    assert_eq!((config.log.as_str(), config.max_sandboxes, config.retention), ("flag", 2, Duration::from_secs(86_400)));
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn all_problems_are_told_together() {
    let file = "listn = 'x'\nlog_format = 'xml'\npool = 'always'\nretention = true\n";
    let variables = [
        ("CAISSON_DATABASE_URL", "mysql://two words"),
        ("CAISSON_LISTEN", "8080"),
        ("CAISSON_API_KEY", "two words"),
        ("CAISSON_NONSENSE", "1"),
        ("CAISSON_DATA_DIR", ""),
    ];
    let problems = given(file, &variables, &[(Setting::MaxSandboxes, "0")]).problems();
    for words in [
        "did you mean listen?",
        "`xml`",
        "expected `auto` or `off`",
        "is a boolean",
        "CAISSON_DATABASE_URL expected postgres://",
        "CAISSON_LISTEN is `8080`: expected ADDRESS:PORT",
        "CAISSON_API_KEY has characters",
        "CAISSON_NONSENSE is not known; known are CAISSON_LISTEN",
        "CAISSON_DATA_DIR is empty",
        "--flag is `0`: expected a number from 1 to 100000",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:#?}");
    }
    assert_eq!(problems.len(), 10, "{problems:#?}");
    assert!(!problems.iter().any(|problem| problem.contains("two words")), "secrets are not shown");
    assert!(Problems(problems).to_string().starts_with("the configuration has 10 problems:\n  - "));
}

#[test]
fn names_of_others_are_not_ignored() {
    given("", &[("CAISSON_POOL", "off"), ("CAISSON_SERVER", "http://elsewhere")], &[]).read().unwrap();
    refused(&[("CAISSON_listen", "127.0.0.1:1")], &["CAISSON_listen is not known"]);
}

#[test]
fn locks_may_be_shared() {
    let url = "redis://me:secret@cache.lan/2";
    let config = given("", &[("DAIV_SANDBOX_REDIS_URL", url)], &[]).read().unwrap();
    assert_eq!((config.redis.clone(), &config.aliases[..]), (url.parse().ok(), &["DAIV_SANDBOX_REDIS_URL"][..]));
    assert!(!format!("{config:?}").contains("secret"), "a password is shown to nobody");
    let config = given("", &[("CAISSON_REDIS_URL", url), ("DAIV_SANDBOX_REDIS_URL", url)], &[]).read().unwrap();
    assert_eq!(config.redis, url.parse().ok());
    assert_eq!(given("", &[], &[]).read().unwrap().redis, None);

    let disagreeing = [("CAISSON_REDIS_URL", "redis://secret"), ("DAIV_SANDBOX_REDIS_URL", url)];
    refused(&disagreeing, &["CAISSON_REDIS_URL", "DAIV_SANDBOX_REDIS_URL", "disagree"]);
    for (name, value, word) in [
        ("CAISSON_REDIS_URL", "http://u:secret@h", "expected redis://"),
        ("CAISSON_REDIS_URL", "", "is empty"),
        ("DAIV_SANDBOX_REDIS_URL", "redis://u:secret@h?db=1", "option"),
        ("DAIV_SANDBOX_REDIS_URL", "redis://u:secret@h/secret", "number of a database"),
    ] {
        refused(&[(name, value)], &[name, word]);
        let problems = given("", &[(name, value)], &[]).problems();
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }
}

#[test]
fn the_network_needs_a_key() {
    refused(&[("CAISSON_LISTEN", "0.0.0.0:8080")], &["0.0.0.0:8080", "set CAISSON_API_KEY"]);
    refused(&[("CAISSON_LISTEN", "127.0.0.1:1,[::]:2")], &["[::]:2"]);
    refused(&[("CAISSON_LISTEN", "192.0.2.1:1"), ("CAISSON_AUTH", "none")], &["for this machine alone"]);
    refused(&[("CAISSON_AUTH", "none"), ("CAISSON_API_KEY", "k")], &["leave out one"]);
    refused(&[("CAISSON_AUTH", "nobody")], &["`nobody`", "expected `key`"]);
    refused(&[("CAISSON_API_KEY", "")], &["CAISSON_API_KEY is empty"]);
    let config = given("", &[("CAISSON_LISTEN", "0.0.0.0:8080"), ("CAISSON_API_KEY", "k")], &[]).read().unwrap();
    assert_eq!(config.access, Access::Key(key::Key::new("k").unwrap()));
    for listen in ["127.0.0.1:0", "localhost:80", "[::1]:80", "127.1.2.3:80", "[::ffff:127.0.0.1]:80"] {
        given("", &[("CAISSON_LISTEN", listen), ("CAISSON_AUTH", "none")], &[]).read().unwrap();
    }
    refused(&[("CAISSON_LISTEN", "127.0.0.1:1, 127.0.0.1:1")], &["twice"]);
}

#[test]
fn public_addresses_are_checked() {
    let variables = [("CAISSON_PUBLIC_URL", "https://caisson.example.com"), ("CAISSON_PUBLIC_DOMAIN", "Box.example.com")];
    let public = given("", &variables, &[]).read().unwrap().public;
    assert_eq!(public, Public { url: variables[0].1.parse().ok(), domain: "box.example.com".parse().ok() });
    assert_eq!(given("", &[], &[]).read().unwrap().public, Public::default());
    let config = given("public_url = 'http://a'\npublic_domain = 'b.c'\n", &[], &[(Setting::PublicDomain, "d.e")]).read().unwrap();
    assert_eq!(config.public.domain, "d.e".parse().ok());
    refused(&[("CAISSON_PUBLIC_URL", "caisson.example.com")], &["CAISSON_PUBLIC_URL is `caisson.example.com`", "https://"]);
    refused(&[("CAISSON_PUBLIC_DOMAIN", "*.example.com")], &["CAISSON_PUBLIC_DOMAIN is `*.example.com`", "without a scheme"]);
    refused(&[("CAISSON_PUBLIC_DOMAIN", "127.0.0.1")], &["expected a domain"]);
}

#[test]
fn files_must_make_sense() {
    let problems = given("log = 'x'\nlisten = \n", &[], &[]).problems();
    assert!(problems.len() == 1 && problems[0].contains("is not TOML in line 2"), "{problems:?}");
    let missing = Sources { file: Some((PathBuf::from("/nonexistent/caisson.toml"), true)), ..Sources::default() };
    let root = Surroundings { is_root: true, ..Surroundings::default() };
    assert!(Config::read(&missing, &root).unwrap_err().0[0].contains("cannot read the configuration file"));
    let missing = Sources { file: Some((PathBuf::from("/nonexistent/caisson.toml"), false)), ..Sources::default() };
    Config::read(&missing, &root).unwrap();
}

#[test]
fn secrets_in_files_are_kept_from_others() {
    let given = given("api_key = 'k'", &[], &[]);
    given.read().unwrap();
    let (path, _) = given.sources.file.clone().unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(given.problems()[0].contains("chmod 600"));
}

#[test]
fn sizes_and_homes_are_checked() {
    refused(&[("CAISSON_OUTPUT_LOG", "4K")], &["CAISSON_INLINE_OUTPUT", "make it smaller"]);
    refused(&[("CAISSON_INLINE_OUTPUT", "1")], &["allowed is 1K to 64M"]);
    refused(&[("CAISSON_RETENTION", "1s")], &["allowed is 1m"]);
    refused(&[("CAISSON_LOG", "a=b=c")], &["CAISSON_LOG", "expected a filter"]);
    let homeless = Config::read(&Sources::default(), &Surroundings::default()).unwrap_err();
    assert!(homeless.0[0].contains("set CAISSON_DATA_DIR"), "{homeless}");
    let bytes = std::ffi::OsString::from_vec(vec![0xff]);
    let sources = Sources { environment: Environment(vec![("CAISSON_LOG".into(), bytes)]), ..Sources::default() };
    assert!(Config::read(&sources, &Surroundings { is_root: true, ..Surroundings::default() }).unwrap_err().0[0].contains("not UTF-8"));
}

#[test]
fn names_of_other_systems_are_taken_and_must_agree() {
    let config = given("", &[("BOXED_API_KEY", "k")], &[]).read().unwrap();
    assert_eq!((config.boxed_key, &config.aliases[..]), (Some(key::Key::new("k").unwrap()), &["BOXED_API_KEY"][..]));
    let config = given("", &[("BOXED_API_KEY", "k"), ("CAISSON_BOXED_API_KEY", "k")], &[(Setting::BoxedApiKey, "flag")]).read().unwrap();
    assert_eq!((config.boxed_key, config.aliases), (Some(key::Key::new("flag").unwrap()), Vec::new()));
    refused(
        &[("BOXED_API_KEY", "secret-1"), ("CAISSON_BOXED_API_KEY", "secret-2")],
        &["BOXED_API_KEY", "CAISSON_BOXED_API_KEY", "disagree"],
    );
    let config = given("", &[("SANDBOX_API_KEY", "k"), ("CAISSON_AUTH", "none")], &[]).read().unwrap();
    assert_eq!((config.sandbox_key, config.access), (Some(key::Key::new("k").unwrap()), Access::Everybody));
    refused(&[("BOXED_API_KEY", "k"), ("CAISSON_AUTH", "none")], &["BOXED_API_KEY", "none"]);
    refused(&[("BOXED_API_KEY", "")], &["BOXED_API_KEY", "empty"]);
    let problems = given("", &[("BOXED_API_KEY", "se cret")], &[]).problems();
    assert!(!problems[0].contains("se cret"), "{problems:?}");
}

#[test]
fn records_may_be_kept_elsewhere() {
    let url = "postgres://me:secret@db.lan/records";
    let config = given("", &[("DATABASE_URL", url)], &[]).read().unwrap();
    assert_eq!((config.database.clone(), &config.aliases[..]), (url.parse().ok(), &["DATABASE_URL"][..]));
    assert!(!format!("{config:?}").contains("secret"), "a password is shown to nobody");
    let config = given("retention_sandboxes = 100\n", &[("CAISSON_DATABASE_URL", url), ("DATABASE_URL", url)], &[]).read().unwrap();
    assert_eq!((config.database, config.retention_sandboxes), (url.parse().ok(), Some(100)));
    let config = given("", &[("CAISSON_DATABASE_URL", "sqlite:///srv/records.db")], &[]).read().unwrap();
    assert_eq!(config.database, Some(Location::Sqlite("/srv/records.db".into())));
    let none = given("", &[], &[]).read().unwrap();
    assert_eq!((none.database, none.retention_sandboxes), (None, None));

    let disagreeing = [("CAISSON_DATABASE_URL", "sqlite:///secret"), ("DATABASE_URL", url)];
    refused(&disagreeing, &["CAISSON_DATABASE_URL", " DATABASE_URL", "disagree"]);
    for (name, value, word) in [
        ("CAISSON_DATABASE_URL", "mysql://u:secret@h/d", "expected postgres://"),
        ("DATABASE_URL", "postgres://u:secret@h/d?schema=public", "`schema`"),
        ("CAISSON_DATABASE_URL", "", "is empty"),
        ("CAISSON_RETENTION_SANDBOXES", "0", "from 1"),
    ] {
        refused(&[(name, value)], &[name, word]);
        let problems = given("", &[(name, value)], &[]).problems();
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }
}

#[test]
fn images_may_have_other_names() {
    let table = "[image_aliases]\n'python:3.12' = 'host'\n\"a/b@sha256:0\" = 'host'\n";
    for config in [given(table, &[], &[]), given("", &[("CAISSON_IMAGE_ALIASES", "python:3.12=host, a/b@sha256:0=host")], &[])] {
        let aliases = config.read().unwrap().image_aliases;
        assert_eq!(aliases.keys().collect::<Vec<_>>(), ["a/b@sha256:0", "python:3.12"]);
    }
    refused(&[("CAISSON_IMAGE_ALIASES", "python:3.12")], &["CAISSON_IMAGE_ALIASES", "NAME=IMAGE"]);
    let other = given("", &[("CAISSON_IMAGE_ALIASES", "python:3.12=registry.lan/python:3.12")], &[]).read().unwrap();
    assert_eq!(other.image_aliases["python:3.12"].name(), "registry.lan/python:3.12");
    refused(&[("CAISSON_IMAGE_ALIASES", "python:3.12=no thing")], &["CAISSON_IMAGE_ALIASES", "`host`"]);
    refused(&[("CAISSON_IMAGE_ALIASES", "=host")], &["without a name"]);
    refused(&[("CAISSON_IMAGE_ALIASES", "a=host,a=host")], &["twice"]);
}

#[test]
fn files_of_workspaces_are_in_a_directory_or_a_bucket() {
    let directory = |path: &str| BlobStorage::Directory(PathBuf::from(path));
    let read = |variables: &[(&str, &str)]| given("", variables, &[]).read().unwrap();
    assert_eq!(read(&[]).blobs, directory("/var/lib/caisson/blobs"));
    assert_eq!(read(&[("CAISSON_DATA_DIR", "/d")]).blobs, directory("/d/blobs"));
    assert_eq!(read(&[("CAISSON_BLOB_URL", "file:///srv/files")]).blobs, directory("/srv/files"));
    let config = read(&[
        ("CAISSON_BLOB_URL", "s3://bucket/a/b"),
        ("CAISSON_S3_ENDPOINT", "http://127.0.0.1:9000"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hidden"),
        ("CAISSON_S3_REGION", "eu-1"),
    ]);
    let BlobStorage::S3(s3) = &config.blobs else { panic!("{:?}", config.blobs) };
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.region.as_deref()), ("bucket", "a/b", Some("eu-1")));
    assert_eq!(config.aliases, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    assert!(!format!("{config:?}").contains("hidden"));
    let keys = [("CAISSON_S3_ACCESS_KEY_ID", "id"), ("CAISSON_S3_SECRET_ACCESS_KEY", "hidden")];
    refused(&[("CAISSON_BLOB_URL", "s3://bucket")], &["CAISSON_S3_ACCESS_KEY_ID"]);
    refused(&[("CAISSON_BLOB_URL", "gs://bucket")], &["CAISSON_BLOB_URL", "s3://BUCKET/PREFIX"]);
    refused(&[("CAISSON_S3_ENDPOINT", "http://x")], &["CAISSON_S3_ENDPOINT", "CAISSON_BLOB_URL"]);
    refused(&[keys[0], keys[1], ("CAISSON_BLOB_URL", "s3://b"), ("CAISSON_S3_ENDPOINT", "x:9000")], &["https://"]);
    let two = [keys[0], keys[1], ("AWS_SECRET_ACCESS_KEY", "other"), ("CAISSON_BLOB_URL", "s3://b")];
    let problems = given("", &two, &[]).problems();
    assert!(problems[0].contains("CAISSON_S3_SECRET_ACCESS_KEY") && problems[0].contains("disagree"), "{problems:?}");
    assert!(read(&[("AWS_ACCESS_KEY_ID", "of something else"), ("AWS_REGION", "")]).aliases.is_empty());
}

#[test]
fn names_of_boxbox_are_read_as_it_reads_them() {
    let read = |variables: &[(&str, &str)]| given("", variables, &[]).read().unwrap();
    let config = read(&[
        ("API_KEY", "k"),
        ("API_PORT", "9000"),
        ("EXECUTION_TIMEOUT", "90s"),
        ("QUEUE_MAX_CONCURRENT", "0"),
        ("QUEUE_WAIT_TIMEOUT", ""),
        ("SANDBOX_MEMORY", "4"),
        ("MAX_FILE_SIZE_MB", "7"),
        ("POOL_MIN_WARM", "3"),
        ("POOL_SANDBOX_TTL", "never"),
        ("SYNC_CONCURRENCY", "2"),
    ]);
    let boxbox = &config.boxbox;
    assert_eq!(boxbox.key.as_ref().map(|key| key.reveal()), Some("k"));
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:9000".parse().unwrap()]);
    let settings = &boxbox.settings;
    assert_eq!((settings.timeout, settings.wait, settings.slots), (Duration::from_secs(90), Duration::from_secs(30), 10));
    assert_eq!((settings.limits.memory_bytes, settings.max_file_bytes), (4 << 30, 7 << 20));
    assert_eq!((settings.storage, settings.limits.disk_bytes), (caisson_core::Storage::Memory, (4_u64 << 30) / 100 * 75));
    for line in [
        "EXECUTION_TIMEOUT of the environment is used",
        "QUEUE_MAX_CONCURRENT is `0`, which is no number from 1 to 10000; the default is used",
        "POOL_MIN_WARM of the environment is used",
        "POOL_SANDBOX_TTL is `never`, which is no time such as 90s, 5m or 1h30m; the default is used",
    ] {
        assert!(boxbox.notes.iter().any(|note| note == line), "{line}: {:#?}", boxbox.notes);
    }
    assert!(!boxbox.notes.iter().any(|note| note.contains("QUEUE_WAIT_TIMEOUT")), "empty is absent: {:#?}", boxbox.notes);
    assert_eq!(config.aliases, ["API_KEY"]);
    assert_eq!((settings.warm.clone(), settings.warm_stay, settings.files_at_once), (3..=50, 0, 2));
    assert_eq!(settings.warm_age, Duration::from_secs(3600));
    // What is kept ready by itself is for installations of boxbox's.
    let settings = read(&[("API_KEY", "k"), ("DAYTONA_API_KEY", "d"), ("POOL_SANDBOX_TTL", "10m"), ("POOL_MAX_WARM", "7")]).boxbox.settings;
    assert_eq!((settings.warm, settings.warm_stay, settings.warm_age), (5..=7, 5, Duration::from_secs(600)));
    let boxbox = read(&[("POOL_MIN_WARM", "9"), ("POOL_MAX_WARM", "0"), ("POOL_SCALE_DOWN_THRESHOLD", "1001")]).boxbox;
    assert_eq!((boxbox.settings.warm, boxbox.settings.warm_stay), (9..=9, 0));
    assert!(
        boxbox.notes.iter().any(|note| note == "POOL_MIN_WARM is 9 and POOL_MAX_WARM is 0; 9 is the most as well"),
        "{:#?}",
        boxbox.notes
    );
    // Its own disk takes a word.
    let disk = read(&[("SANDBOX_DISK", "2")]).boxbox.settings;
    assert_eq!((disk.storage, disk.limits.disk_bytes), (caisson_core::Storage::Disk, 2 << 30));
    // Empty ones are absent, and without a key a port is for this machine.
    let config = read(&[("API_KEY", ""), ("DAYTONA_IMAGE", ""), ("API_PORT", "9000")]);
    assert!(config.boxbox.key.is_none() && config.boxbox.image.is_none() && config.aliases.is_empty());
    assert_eq!(config.listen[1], "127.0.0.1:9000".parse().unwrap());
}

#[test]
fn names_of_daiv_sandbox_are_read_as_it_reads_them() {
    let config = given(
        "",
        &[
            ("DAIV_SANDBOX_API_KEY", "k"),
            ("DAIV_SANDBOX_PORT", "8001"),
            ("DAIV_SANDBOX_API_V1_STR", "/x/"),
            ("DAIV_SANDBOX_COMMAND_TIMEOUT", "9"),
            ("DAIV_SANDBOX_RUN_UID", ""),
            ("DAIV_SANDBOX_LOG_LEVEL", "WARNING"),
            ("DAIV_SANDBOX_REAPER_ENABLED", "no"),
            ("DAIV_SANDBOX_MAX_STOPPED_SESSIONS", "9"),
            ("DAIV_SANDBOX_RUNTIME", "runc"),
            ("DAIV_SANDBOX_REDIS_URL", ""),
            ("DAIV_SANDBOX_SESSION_LOCK_TTL_SECONDS", "60"),
            ("DAIV_SANDBOX_GIT_IMAGE", "alpine/git"),
            ("DAIV_SANDBOX_WHATEVER", "1"),
        ],
        &[],
    )
    .read()
    .unwrap();
    let daiv = &config.daiv;
    assert_eq!(daiv.key.as_ref().map(|key| key.reveal()), Some("k"));
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:8001".parse().unwrap()]);
    assert_eq!((config.log.as_str(), daiv.settings.prefix.as_str(), daiv.settings.uid), ("warn", "/x", 1000));
    assert_eq!((daiv.settings.command_timeout, daiv.settings.idle), (Some(Duration::from_secs(9)), None));
    assert_eq!((daiv.locks.ttl, daiv.locks.refresh), (Duration::from_secs(60), Duration::from_secs(30)));
    assert!(config.redis.is_none() && daiv.sentry.is_none());
    assert_eq!((config.stopped_grace, config.max_stopped), (None, None), "nobody looks for stopped ones");
    assert_eq!(daiv.settings.storage, caisson_core::Storage::Disk);
    let stopped = |variables: &[(&str, &str)]| {
        let config = given("", variables, &[]).read().unwrap();
        (config.stopped_grace.map(|grace| grace.as_secs()), config.max_stopped)
    };
    assert_eq!(stopped(&[]), (Some(43_200), Some(50)));
    let of_daiv = [("DAIV_SANDBOX_SESSION_GRACE_SECONDS", "7"), ("DAIV_SANDBOX_MAX_STOPPED_SESSIONS", "8")];
    assert_eq!(stopped(&of_daiv), (Some(7), Some(8)));
    assert_eq!(stopped(&[of_daiv[0], of_daiv[1], ("CAISSON_STOPPED_GRACE_S", "0"), ("CAISSON_MAX_STOPPED", "0")]), (None, Some(0)));
    for line in [
        "DAIV_SANDBOX_PORT of the environment is used",
        "DAIV_SANDBOX_RUNTIME of the environment is used",
        "DAIV_SANDBOX_GIT_IMAGE is not used: patches are made without an image of git",
        "DAIV_SANDBOX_WHATEVER is not known, and not used",
    ] {
        assert!(daiv.notes.iter().any(|note| note == line), "{line}: {:#?}", daiv.notes);
    }
    let told = [("DAIV_SANDBOX_SENTRY_DSN", "https://key@example.com/1"), ("DAIV_SANDBOX_SENTRY_TRACES_SAMPLE_RATE", "0.25")];
    let sentry = given("", &told, &[]).read().unwrap().daiv.sentry.expect("there is a DSN");
    assert_eq!((sentry.dsn.host(), sentry.logs, sentry.addresses, sentry.traces), ("example.com", false, false, 0.25));
    let refused = |name: &str, value: &str| given("", &[("DAIV_SANDBOX_API_KEY", "k"), (name, value)], &[]).read().unwrap_err().0;
    for (name, value, why) in [
        ("DAIV_SANDBOX_PORT", "0", "DAIV_SANDBOX_PORT is `0`, which is no number from 1 to 65535"),
        ("DAIV_SANDBOX_HOST", "here", "DAIV_SANDBOX_HOST is `here`, which is no address such as 0.0.0.0"),
        ("DAIV_SANDBOX_RUN_GID", "65536", "DAIV_SANDBOX_RUN_GID is `65536`, which is no number from 0 to 65535"),
        (
            "DAIV_SANDBOX_SESSION_LOCK_WAIT_SECONDS",
            "-1",
            "DAIV_SANDBOX_SESSION_LOCK_WAIT_SECONDS is `-1`, which is no number of seconds, 0 or more",
        ),
        (
            "DAIV_SANDBOX_RUNTIME",
            "kata",
            "DAIV_SANDBOX_RUNTIME is `kata`, which is no runtime that is here: `runc`, for which this program's own walls stand, or `runsc`",
        ),
        (
            "DAIV_SANDBOX_SESSION_LOCK_REFRESH_SECONDS",
            "900",
            "DAIV_SANDBOX_SESSION_LOCK_REFRESH_SECONDS (900s) has to be less than the TTL (900s)",
        ),
        ("DAIV_SANDBOX_ENVIRONMENT", "test", "DAIV_SANDBOX_ENVIRONMENT is `test`, which is no environment: `production` or `local`"),
        (
            "DAIV_SANDBOX_SENTRY_DSN",
            "https://example.com",
            "DAIV_SANDBOX_SENTRY_DSN is `https://example.com`, which is no DSN such as https://key@sentry.example.com/1",
        ),
        (
            "DAIV_SANDBOX_SENTRY_TRACES_SAMPLE_RATE",
            "1.5",
            "DAIV_SANDBOX_SENTRY_TRACES_SAMPLE_RATE is `1.5`, which is no part, from 0.0 to 1.0",
        ),
    ] {
        assert_eq!(refused(name, value), [why]);
    }
    let without = given("", &[("DAIV_SANDBOX_PORT", "8001")], &[]).read().unwrap_err().0;
    assert!(without[0].starts_with("DAIV_SANDBOX_HOST and DAIV_SANDBOX_PORT are an address"), "{without:?}");
}

#[test]
fn an_image_is_built_for_installations_of_boxbox_alone() {
    for (variables, meant) in [
        (&[][..], false),
        (&[("API_KEY", "k")], false),
        (&[("DAYTONA_API_KEY", "k")], false),
        (&[("API_KEY", "k"), ("DAYTONA_API_KEY", "k")], true),
        (&[("CAISSON_BOXBOX_API_KEY", "k")], true),
        (&[("CAISSON_BOXBOX_DOCKERFILE", "/d/Dockerfile")], true),
    ] {
        assert_eq!(given("", variables, &[]).read().unwrap().boxbox.is_meant, meant, "{variables:?}");
    }
    refused(&[("API_KEY", "a"), ("CAISSON_BOXBOX_API_KEY", "b")], &["API_KEY", "CAISSON_BOXBOX_API_KEY", "disagree"]);
    refused(&[("API_KEY", "two words")], &["API_KEY", "characters"]);
    refused(&[("API_KEY", "a"), ("CAISSON_AUTH", "none")], &["CAISSON_AUTH", "API_KEY"]);
}

#[test]
fn buckets_of_boxbox_are_taken_where_something_is_its_own() {
    let theirs = [
        ("S3_BUCKET", "bucket"),
        ("S3_ENDPOINT", "http://127.0.0.1:9000"),
        ("S3_ACCESS_KEY_ID", "id"),
        ("S3_SECRET_ACCESS_KEY", "hidden"),
        ("S3_REGION", ""),
    ];
    let config = given("", &[&theirs[..], &[("API_KEY", "k")]].concat(), &[]).read().unwrap();
    let BlobStorage::S3(s3) = &config.blobs else { panic!("{:?}", config.blobs) };
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.region.as_deref()), ("bucket", "", None));
    assert!(config.aliases.contains(&"S3_BUCKET") && !format!("{config:?}").contains("hidden"), "{:?}", config.aliases);
    let config = given("", &theirs, &[]).read().unwrap();
    assert_eq!((config.blobs, config.aliases.len()), (BlobStorage::Directory(PathBuf::from("/var/lib/caisson/blobs")), 0));
    let both = [&theirs[..], &[("API_KEY", "k"), ("CAISSON_BLOB_URL", "s3://other")]].concat();
    refused(&both, &["S3_BUCKET", "CAISSON_BLOB_URL", "disagree"]);
}

#[test]
fn backends_are_the_first_of_those_that_are_allowed() {
    let config = |variables: &[(&str, &str)]| given("", variables, &[]).read().unwrap().backends.names;
    assert_eq!(config(&[]), ["native"]);
    assert_eq!(config(&[("CAISSON_BACKEND", "oci:runc")]), ["oci:runc"]);
    assert_eq!(config(&[("CAISSON_BACKENDS", "oci:runsc, native")]), ["oci:runsc", "native"]);
    assert_eq!(config(&[("CAISSON_BACKENDS", "native,oci:runsc"), ("CAISSON_BACKEND", "oci:runsc")]), ["oci:runsc", "native"]);
    refused(&[("CAISSON_BACKENDS", "native"), ("CAISSON_BACKEND", "oci:runc")], &["CAISSON_BACKEND is `oci:runc`", "add it there"]);
    refused(&[("CAISSON_BACKEND", "podman")], &["expected the name of a backend"]);
    refused(&[("CAISSON_OCI_RUNTIMES", "runc=/a")], &["CAISSON_BACKENDS does not have `oci:runc`"]);

    let docker =
        |variables: &[(&str, &str)]| given("", variables, &[]).read().unwrap().backends.docker.map(|endpoint| endpoint.to_string());
    assert_eq!(docker(&[("DOCKER_HOST", "nonsense")]), None, "whom nobody asks may be anywhere");
    assert_eq!(docker(&[("CAISSON_BACKEND", "docker:crun")]).as_deref(), Some("unix:///var/run/docker.sock"));
    assert_eq!(
        docker(&[("CAISSON_BACKEND", "docker"), ("DOCKER_HOST", "tcp://a:1"), ("DOCKER_TLS_VERIFY", "")]).as_deref(),
        Some("tcp://a:1")
    );
    refused(&[("CAISSON_BACKEND", "docker"), ("DOCKER_HOST", "a:1")], &["DOCKER_HOST", "tcp://host:port"]);
    refused(&[("CAISSON_BACKEND", "docker"), ("DOCKER_HOST", "tcp://a:1"), ("DOCKER_TLS_VERIFY", "1")], &["DOCKER_CERT_PATH"]);

    let chosen = given("", &[("CAISSON_BACKEND", "oci:runc")], &[]).read().unwrap();
    assert_eq!(chosen.daiv.settings.storage, caisson_core::Storage::Memory, "no other has a disk");
    let given = given("", &[("DAIV_SANDBOX_RUNTIME", "runsc"), ("CAISSON_OCI_RUNTIMES", "runsc=/a")], &[]).read().unwrap();
    assert_eq!(given.backends.names, ["native", "oci:runsc"]);
    assert_eq!(given.backends.program(caisson_oci::Kind::Runsc), Some(PathBuf::from("/a")));
    let settings = &given.daiv.settings;
    assert_eq!((settings.backend.as_str(), settings.storage), ("oci:runsc", caisson_core::Storage::Memory));
}
