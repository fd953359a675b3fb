"""A plug-in that lets verl run on a machine without accelerators, on small models. verl loads it by its own settings:

    VERL_USE_EXTERNAL_MODULES=verl_cpu VERL_PLATFORM=cpu VERL_ENGINE_DEVICE=cuda

It adds a platform "cpu", a rollout engine "cpu_hf" (transformers, in one Ray actor per replica), and a checkpoint
engine "cpu_file" that hands weights over in files of this machine.
"""

import asyncio
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.workers.rollout import base as rollouts
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

ENGINE = "cpu_hf"
SERVER = "cpu_hf_server"
LARGEST_BATCH = 256


class Device:
    """What verl asks of `torch.cuda`: nothing is there, and everything is allowed."""

    def is_available(self):
        return False

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def mem_get_info(self, *_):
        return 0, 0

    def get_rng_state(self, *_):
        return torch.get_rng_state()

    def set_rng_state(self, *_):
        return None

    def get_device_name(self, *_):
        return "cpu"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: 0


@PlatformRegistry.register(platform="cpu")
class CPU(PlatformBase):
    """The platform: Ray counts its processors as the GPUs that verl asks for."""

    device_name = "cpu"
    vendor_name = "none"
    device_module = Device()

    def is_available(self):
        return True

    def is_platform_available(self, use_smi_check=False):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, device_index):
        pass

    def synchronize(self, device_index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def manual_seed_all(self, seed):
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        yield

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"

    def ray_resource_options(self, num_gpus):
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


init_process_group = torch.distributed.init_process_group


def init_gloo(backend=None, *positional, **named):
    """verl asks for a backend of the CPU and one of the device, "cpu:gloo,cpu:gloo", which torch refuses."""
    return init_process_group("gloo" if backend and "gloo" in backend else backend, *positional, **named)


torch.distributed.init_process_group = init_gloo


class Rollout(rollouts.BaseRollout):
    """The trainer's side of the rollout engine: it hands weights to the server."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, **_):
        pairs = [pair async for pair in weights] if hasattr(weights, "__aiter__") else list(weights)
        state = {name: whole(tensor).float() for name, tensor in pairs}
        await ray.get_actor(f"{SERVER}_0").set_weights.remote(state, global_steps)


def whole(tensor):
    """A copy of a tensor, of which other processes may hold parts."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


class Server:
    """Generates with transformers. Requests that wait together are one batch."""

    def __init__(self, path, response_length):
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.length = response_length
        self.steps, self.waiting, self.paused, self.worker = None, [], False, None

    async def set_weights(self, state, steps):
        self.model.load_state_dict(state, strict=False)
        self.steps = steps

    async def generate(self, request_id, prompt_ids, sampling_params, **_):
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((list(prompt_ids), sampling_params, done))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self.work())
        tokens, log_probs, steps, reason = await done
        return TokenOutput(
            token_ids=tokens, log_probs=log_probs, stop_reason=reason, extra_fields={"global_steps": steps}
        )

    async def work(self):
        await asyncio.sleep(0.01)
        while self.waiting:
            while self.paused:
                await asyncio.sleep(0.02)
            batch, self.waiting = self.waiting[:LARGEST_BATCH], self.waiting[LARGEST_BATCH:]
            if batch:
                steps = self.steps
                for (_, _, done), (tokens, log_probs) in zip(batch, self.generated(batch), strict=True):
                    if not done.done():
                        done.set_result((tokens, log_probs, steps, "completed"))
            await asyncio.sleep(0)

    def generated(self, batch):
        """The tokens and log probabilities of each request."""
        pad, eos = self.model.config.pad_token_id, self.model.config.eos_token_id
        width = max(len(prompt) for prompt, _, _ in batch)
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt, _, _ in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _, _ in batch])
        temperature = batch[0][1].get("temperature", 1.0)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            **sampling,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.length,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = out.sequences[:, width:]
        logits = torch.stack(out.logits, 1).float() / (temperature or 1.0)
        log_probs = logits.log_softmax(-1).gather(-1, new[..., None])[..., 0]
        for tokens, values in zip(new.tolist(), log_probs.tolist(), strict=True):
            end = tokens.index(eos) + 1 if eos in tokens else len(tokens)
            yield tokens[:end], values[:end]

    async def abort_all_requests(self, reject_request=False):
        self.paused = True
        aborted, self.waiting = self.waiting, []
        for _, _, done in aborted:
            done.set_result(([], [], self.steps, "aborted"))

    async def resume_generation(self):
        self.paused = False

    async def wake_up(self):
        pass

    async def sleep(self):
        pass

    async def clear_kv_cache(self):
        pass

    async def release_kv_cache(self):
        pass

    async def resume_kv_cache(self):
        pass

    async def start_profile(self, **_):
        pass

    async def stop_profile(self):
        pass


class Replica(RolloutReplica):
    """One server."""

    async def launch_servers(self):
        server = ray.remote(Server).options(name=f"{SERVER}_{self.replica_rank}", num_cpus=0.01, max_concurrency=1000)
        self._server_handle = server.remote(self.model_config.path, self.config.response_length)
        self._server_address = f"cpu:{self.replica_rank}"
        self.servers = [self._server_handle]


rollouts._ROLLOUT_REGISTRY[ENGINE, "async"] = f"{__name__}.Rollout"
RolloutReplicaRegistry.register(ENGINE, lambda: Replica)


@CheckpointEngineRegistry.register("cpu_file")
class FileEngine(CheckpointEngine):
    """Hands weights to servers of mode `separate_async`, in a file per step."""

    def __init__(self, *_, **__):
        pass

    def prepare(self):
        return {}

    @classmethod
    def build_topology(cls, trainer_world_size, rollout_world_size, metadata):
        return {}, {}

    def init_process_group(self, **_):
        pass

    def finalize(self):
        pass

    def path(self, steps):
        return Path(os.environ.get("VERL_CPU_WEIGHTS", tempfile.gettempdir()), f"weights_{steps}.pt")

    async def send_weights(self, weights, global_steps=None):
        part = self.path(global_steps).with_suffix(".part")
        torch.save({name: whole(tensor) for name, tensor in weights}, part)
        part.replace(self.path(global_steps))

    async def receive_weights(self, global_steps=None):
        while not self.path(global_steps).exists():
            await asyncio.sleep(0.05)
        for item in torch.load(self.path(global_steps)).items():
            yield item
