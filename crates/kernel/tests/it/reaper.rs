//! Links leave at once; the kernel's clean-up comes behind.

use std::time::Instant;

use ripstop_netmodel::*;

use crate::support::*;

#[test]
fn a_removal_answers_when_the_interface_left_the_pod() {
    on_a_node(|mut node| {
        let mut times = Vec::new();
        for _ in 0..20 {
            let pod = Pod::new();
            let objects = pair(&pod, "ripab12", 2);
            node.make(&objects);
            let start = Instant::now();
            node.remove(&objects[..1]);
            times.push(start.elapsed());
            assert!(!pod.run("ip", &["-o", "link"]).contains("eth0"));
        }
        times.sort();
        println!("removal answered: p50 {:?}, max {:?}", times[times.len() / 2], times[times.len() - 1]);
        let start = Instant::now();
        node.applier.flush();
        println!("flush: {:?}", start.elapsed());
    });
}

#[test]
fn two_hundred_removals_in_one_plan_are_one_to_the_kernel() {
    on_a_node(|mut node| {
        const COUNT: u8 = 200;
        let pods: Vec<Pod> = (0..COUNT).map(|_| Pod::new()).collect();
        let links: Vec<Object> =
            (0..COUNT).map(|i| pair(&pods[usize::from(i)], &format!("rip{i}"), i / 3)[0].clone()).collect();
        let start = Instant::now();
        node.make(&links);
        let made = start.elapsed();
        // Foreign links stand beside them and stay.
        uplink();
        let start = Instant::now();
        node.remove(&links);
        let removed = start.elapsed();
        node.applier.flush();
        println!("{COUNT} pairs: made in {made:?}, removed in {removed:?}, all over after {:?}", start.elapsed());
        node.assert_gone(&links);
        assert!(ip("link").contains("up0"));
        for pod in [&pods[0], &pods[199]] {
            assert!(!pod.run("ip", &["-o", "link"]).contains("eth0"));
        }
    });
}

#[test]
fn a_name_is_free_as_soon_as_its_removal_is_answered() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        let objects = pair(&pod, "ripab12", 2);
        for _ in 0..10 {
            node.make(&objects);
            node.remove(&objects[..1]);
        }
        node.applier.flush();
        node.assert_gone(&objects);
    });
}
