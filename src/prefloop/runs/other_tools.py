"""Keys of other tools' configurations (TRL, transformers, axolotl, LLaMA-Factory) and what they are called here."""

from __future__ import annotations

_ANSWERS = (  # what to write here, and the keys of others that mean it
    ("`training.lr`", "learning_rate"),
    ("`training.epochs`", "num_train_epochs num_epochs max_epochs"),
    ("`training.steps`", "max_steps num_train_steps num_steps"),
    (
        "`training.minibatch`, the responses in one optimiser step; `training.micro_tokens` bounds one pass",
        "per_device_train_batch_size per_device_batch_size micro_batch_size batch_size gradient_accumulation_steps",
    ),
    ("`training.micro_tokens`, the tokens in one pass", "per_device_eval_batch_size eval_batch_size"),
    (
        "`data.max_prompt_tokens` and `data.max_response_tokens`",
        "max_length max_seq_length sequence_len cutoff_len model_max_length",
    ),
    ("`data.max_prompt_tokens`", "max_prompt_length"),
    ("`data.max_response_tokens` (files) or `sampling.max_new_tokens` (samples)", "max_completion_length"),
    ("`training.warmup`: steps, or below 1 their share", "warmup_ratio warmup_steps"),
    ("`training.schedule`: constant, linear or cosine", "lr_scheduler_type lr_scheduler"),
    ("`model.dtype` of the weights, or `model.autocast`", "bf16 fp16 torch_dtype"),
    ("`output`", "output_dir out_dir"),
    ("`model.path`", "model_name_or_path base_model pretrained_model_name_or_path"),
    ("`model.lora_rank`", "lora_r use_peft finetuning_type load_in_4bit load_in_8bit"),
    ("`model.adapter`", "adapter_name_or_path lora_model_dir"),
    ("`model.lora_targets`", "lora_target lora_target_modules target_modules"),
    ("`data.train`", "dataset datasets dataset_name train_file data_path"),
    ("`data.held_out`", "eval_dataset test_datasets validation_file"),
    ("`data.held_out_share`", "val_size val_set_size test_size"),
    ("`data.limit`", "max_samples max_train_samples"),
    ("`data.template`", "chat_template chat_template_path"),
    ("`evaluation.every`", "eval_steps evals_per_epoch eval_strategy"),
    ("`save.every`", "save_steps save_strategy saves_per_epoch"),
    ("`evaluation.keep_best`", "metric_for_best_model load_best_model_at_end"),
    ("`evaluation.patience`", "early_stopping_patience"),
    ("`method`: a name from `prefloop methods`", "loss_type pref_loss rl stage trainer"),
    ("`override.beta`", "beta pref_beta rl_beta"),
    ("`override.responses`", "num_generations"),
    ("`override.on_policy`, `override.reuse`, `override.negative`", "on_policy reuse negative"),
    ("`training.max_grad_norm`", "gradient_clipping"),
    ("`seed`, and `data.split_seed` for the held-out examples", "random_seed data_seed"),
    (
        "leave it out: every step is in metrics.jsonl of the run folder",
        "report_to wandb_project logging_steps logging_dir",
    ),
    ("leave it out: the optimiser is AdamW", "optim optimizer"),
    ("leave it out: rows are packed up to `training.micro_tokens`", "sample_packing packing"),
    ("leave it out: a run computes on one device (`model.device`)", "deepspeed fsdp fsdp_config"),
)
OURS = {name: answer for answer, names in _ANSWERS for name in names.split()}
