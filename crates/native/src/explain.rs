//! What the launcher reports, in words for people.

use caisson_core::BackendError;
use caisson_launcher::protocol::{Failure, Stage};

/// A failure in words, with the remedy where there is one.
#[must_use]
pub fn explain(failure: &Failure) -> BackendError {
    let Failure { stage, errno, subject } = failure;
    let cause = if *errno == 0 { String::new() } else { format!(": {}", std::io::Error::from_raw_os_error(*errno)) };
    let about = if subject.is_empty() { String::new() } else { format!(" ({subject})") };
    let what = format!("{} failed{about}{cause}", stage.describe());
    match (stage, *errno) {
        (Stage::Clone | Stage::UserNamespace, libc::ENOSPC) => BackendError::Exhausted(format!(
            "{what}; the host allows no more namespaces: raise the sysctls user.max_user_namespaces, user.max_pid_namespaces, \
             user.max_mnt_namespaces, user.max_net_namespaces, user.max_ipc_namespaces, user.max_uts_namespaces and user.max_cgroup_namespaces"
        )),
        (Stage::Root, libc::EUCLEAN | libc::EBADMSG) => BackendError::Broken(format!("the file system of its disk is broken ({what})")),
        (_, libc::EAGAIN | libc::ENOMEM | libc::ENOSPC | libc::EMFILE | libc::ENFILE) => BackendError::Exhausted(what),
        (Stage::Clone | Stage::UserNamespace, libc::EPERM | libc::EINVAL | libc::ENOSYS) => BackendError::Unsupported(format!(
            "{what}; the kernel must allow namespaces (Linux 5.12 or later, user.max_user_namespaces > 0)"
        )),
        (Stage::Network, libc::EPERM | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => BackendError::Unsupported(format!(
            "{what}; a sandbox with a network needs Linux 5.9 or later with CONFIG_BPF_SYSCALL; network `none` needs neither"
        )),
        (Stage::Layers, libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM) => BackendError::Unsupported(format!(
            "{what}; images need a data directory on a file system whose mounts can show owners mapped: ext4, XFS or Btrfs, or tmpfs since \
             Linux 6.3, and no overlayfs; there is no other way to start one"
        )),
        (Stage::Overlay, libc::EINVAL | libc::ENODEV) => BackendError::Unsupported(format!(
            "{what}; images need overlayfs and Linux 5.19 or later, whose overlayfs takes layers with mapped owners; there is no other way to \
             start one"
        )),
        (Stage::Step, libc::ENOTDIR | libc::ELOOP | libc::EISDIR) => BackendError::Unsupported(format!(
            "{what}; where a sandbox needs a directory or file of its own, the image has something else (a link, most of the time): build the \
             image without it"
        )),
        (Stage::Sources | Stage::Layers | Stage::Root | Stage::Step, libc::ENOSYS) => {
            BackendError::Unsupported(format!("{what}; Linux 5.12 or later is needed for the mount calls"))
        }
        _ => BackendError::Failed(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stage: Stage, errno: i32) -> BackendError {
        explain(&Failure { stage, errno, subject: String::new() })
    }

    #[test]
    fn what_the_host_lacks_is_named_with_the_remedy() {
        let BackendError::Unsupported(text) = said(Stage::Clone, libc::EPERM) else { panic!("a missing feature is no passing trouble") };
        assert!(text.contains("user.max_user_namespaces") && text.contains("5.12"), "{text}");
        let BackendError::Exhausted(text) = said(Stage::Clone, libc::ENOSPC) else { panic!("the limit can be raised") };
        assert!(text.contains("user.max_net_namespaces"), "{text}");
        let BackendError::Unsupported(text) = said(Stage::Root, libc::ENOSYS) else { panic!("an old kernel stays old") };
        assert!(text.contains("5.12"), "{text}");
    }

    #[test]
    fn what_a_network_needs_is_named() {
        let BackendError::Unsupported(text) = said(Stage::Network, libc::EINVAL) else { panic!("an old kernel stays old") };
        assert!(text.contains("5.9"), "{text}");
    }

    #[test]
    fn what_images_need_is_named() {
        for (stage, errno, word) in
            [(Stage::Layers, libc::EINVAL, "ext4"), (Stage::Overlay, libc::EINVAL, "5.19"), (Stage::Step, libc::ENOTDIR, "link")]
        {
            let BackendError::Unsupported(text) = said(stage, errno) else { panic!("it is no passing trouble") };
            assert!(text.contains(word), "{text}");
        }
        assert!(matches!(said(Stage::Overlay, libc::ENOENT), BackendError::Failed(_)), "a layer that is not there is our own mistake");
    }

    #[test]
    fn stage_subject_and_cause_are_said_once() {
        let failure = Failure { stage: Stage::Limits, errno: libc::EINVAL, subject: "memory.max to 5".to_owned() };
        let BackendError::Failed(text) = explain(&failure) else { panic!("a failure") };
        assert_eq!(text, "setting the limit failed (memory.max to 5): Invalid argument (os error 22)");
    }
}
