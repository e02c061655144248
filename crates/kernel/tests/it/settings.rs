//! Settings below /proc/sys where a container runtime has mounted them read-only.

use ripstop_netmodel::*;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::support::*;

/// What runtimes do for a container that is not privileged, for this thread alone.
fn make_settings_read_only() {
    // SAFETY: the thread's mounts and working folder alone become its own.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount_bind("/proc/sys", "/proc/sys").unwrap();
    mount_remount("/proc/sys", MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    let refused = std::fs::write("/proc/sys/net/ipv4/conf/lo/rp_filter", "2").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn settings_are_written_where_proc_sys_is_read_only() {
    on_a_node(|mut node| {
        make_settings_read_only();
        let pod = Pod::new();
        let (here, inside) = (Ns::Host, pod.ns());
        let path = "net/ipv4/conf/lo/rp_filter";
        node.make(&[sysctl(here, Some("lo"), path, "2"), sysctl(inside, Some("lo"), path, "1")]);
        let read = || std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap();
        assert_eq!((read().trim(), pod.inside(read).trim()), ("2", "1"));
        let fault = node.try_make(sysctl(Ns::Host, None, "net/no/such/setting", "1")).unwrap_err();
        assert!(fault.to_string().contains("no such setting"), "{fault}");
    });
}
