"""A node: kubelet, containerd and kube-proxy beside the API server, with the controllers and the scheduler."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import yaml

from archive import image
from control import NODE, SERVICES, Control, eventually, sh

TAG = "1.0"
# Nothing but to be there: it holds the namespaces of a pod.
PAUSE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""


class Machine:
    """One node, `one`, whose pods find Services by name."""

    def __init__(self, control: Control, ours: Path):
        self.control, self.work, self.programs = control, control.work, control.programs
        # Mounts of volumes are seen by containerd.
        sh("mount", "--make-rshared", "/")
        sh("sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Addresses of Services are translated on their way out, to which there must be one.
        sh("ip", "route", "replace", SERVICES, "dev", "pods")
        # containerd finds runc and its shim there.
        os.environ["PATH"] = f"{self.programs}:{os.environ['PATH']}"
        self.controllers()
        self.containers(ours)
        self.kubelet()
        control.spawn("names", NODE, control.program, str(control.config), program=Path(__file__).with_name("names.py"))
        eventually("the node is ready", self.is_ready, patience=120)

    def controllers(self):
        home = self.work / "kube"
        common = [f"--kubeconfig={self.control.config}", "--leader-elect=false", "--bind-address=127.0.0.1"]
        self.control.spawn("kube-controller-manager", *common, f"--service-account-private-key-file={home}/accounts.key",
                           f"--root-ca-file={self.control.ca}")
        self.control.spawn("kube-scheduler", *common)

    def containers(self, ours):
        work = self.work
        (work / "cni").mkdir()
        addresses = {"type": "host-local", "dataDir": str(work / "addresses"), "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        (work / "cni/pods.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}))
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        (work / "containerd.toml").write_text(
            f'version = 2\nroot = "{work}/containerd"\nstate = "{work}/containerd-state"\n[grpc]\naddress = "{self.socket}"\n'
            # The last: a machine on which root may not lower the score of a process.
            f'[{cri}]\nsandbox_image = "local/pause:1"\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n'
            f'[{cri}.cni]\nbin_dir = "{self.programs}"\nconf_dir = "{work}/cni"\n'
            f'[{cri}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
        )
        self.control.spawn("containerd", "-c", str(work / "containerd.toml"))
        (work / "pause.c").write_text(PAUSE)
        subprocess.run(["cc", "-static", "-Os", "-o", "pause", "pause.c"], cwd=work, check=True)
        programs = [ours / name for name in ("outrigger", "outrigger-ingress", "outrigger-sidecar")]
        image(work / "pause.tar", "local/pause:1", "/pause", [work / "pause"])
        eventually("containerd answers", lambda: not self.ctr("version").returncode)
        for program in programs:
            image(work / f"{program.name}.tar", f"docker.io/library/{program.name}:{TAG}", f"/{program.name}", programs)
        for name in ["pause", *(program.name for program in programs)]:
            done = self.ctr("-n", "k8s.io", "images", "import", str(work / f"{name}.tar"))
            if done.returncode:
                raise SystemExit(f"containerd does not take the image {name}: {done.stderr}")

    @property
    def socket(self):
        return f"{self.work}/containerd.sock"

    def ctr(self, *words):
        return subprocess.run([self.programs / "ctr", "-a", self.socket, *words], capture_output=True, text=True)

    def end(self):
        """Ends what a kubelet leaves running, and takes away what it made of this machine's own: control groups."""
        self.control.end("kubelet")
        for task in self.ctr("-n", "k8s.io", "tasks", "ls", "-q").stdout.split():
            self.ctr("-n", "k8s.io", "tasks", "rm", "--force", task)
        for group in sorted(Path("/sys/fs/cgroup").glob("**/kubepods/**/"), reverse=True):
            group.rmdir()
        # Images and volumes are mounted in its directory.
        for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
            if line.split()[1].startswith(f"{self.work}/"):
                sh("umount", "--lazy", line.split()[1])

    def kubelet(self):
        work, control = self.work, self.control
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "failCgroupV1": False, "cgroupDriver": "cgroupfs",
            "failSwapOn": False, "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "clusterDNS": [NODE], "clusterDomain": "cluster.local", "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": f"unix://{self.socket}", "evictionHard": {"memory.available": "1Mi"},
        }
        (work / "kubelet.yaml").write_text(yaml.safe_dump(settings))
        control.spawn("kubelet", f"--config={work}/kubelet.yaml", f"--kubeconfig={control.config}", "--hostname-override=one", f"--node-ip={NODE}",
                      f"--root-dir={work}/kubelet", f"--cert-dir={work}/kubelet-certificates")
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
            "clientConnection": {"kubeconfig": str(control.config)}, "hostnameOverride": "one", "clusterCIDR": "10.244.1.0/24",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (work / "proxy.yaml").write_text(yaml.safe_dump(settings))
        control.spawn("kube-proxy", f"--config={work}/proxy.yaml")

    def is_ready(self):
        for name in ("containerd", "kubelet", "kube-proxy"):
            if self.control.running[name].poll() is not None:
                raise SystemExit(f"{name} has ended: {(self.work / f'{name}.log').read_text()[-3000:]}")
        return any(each["type"] == "Ready" and each["status"] == "True" for each in self.control.get("node", "one")["status"]["conditions"])
