"""New-LLM: a language model with a recurrent context vector instead of attention.

At position t, with token embedding e_t, context c_{t-1} (c_0 = 0) and depth L::

    h^1 = dropout(relu(W1 [e_t ; c_{t-1}] + b1))
    h^l = dropout(relu(Wl h^{l-1} + bl))            l = 2..L
    logits_t = Wo h^L + bo
    d, f, i = Wd h^L + bd, sigmoid(Wf h^L + bf), sigmoid(Wi h^L + bi)
    c_t = clamp(LayerNorm(f * c_{t-1} + i * d), -10, 10)

With residual connections h^l = h^{l-1} + dropout(relu(Wl h^{l-1} + bl)) for l = 2..L.

The context is all that the model remembers: in `generate` it is the cache, however long the text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_newllm import NewLLMConfig

LAYER_NORM_EPS = 1e-5
CONTEXT_LIMIT = 10.0


@dataclass
class NewLLMOutput(ModelOutput):
    """Mean cross-entropy in nats where labels were given, logits [B, T, V], and the context after the text [B, C]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    state: Tensor | None = None


class NewLLMForCausalLM(PreTrainedModel, GenerationMixin):
    """The model with its output layer; `state`, the context vector, takes the place of a cache of keys and values."""

    config_class = NewLLMConfig
    main_input_name = "input_ids"
    _is_stateful = True  # a text that was read cannot be taken back

    def __init__(self, config: NewLLMConfig) -> None:
        super().__init__(config)
        hidden, context = config.hidden_size, config.context_dim
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.hidden = nn.ModuleList(
            nn.Linear(config.embedding_dim + context if layer == 0 else hidden, hidden)
            for layer in range(config.num_hidden_layers)
        )
        self.output = nn.Linear(hidden, config.vocab_size)
        self.update = nn.Linear(hidden, context)
        self.forget = nn.Linear(hidden, context)
        self.input = nn.Linear(hidden, context)
        self.norm = nn.LayerNorm(context, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def step(self, embedding: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """One position: the last hidden layer [B, H] and the context after it [B, C]."""
        hidden = torch.cat([embedding, context], dim=-1)
        for layer, linear in enumerate(self.hidden):
            active = self.dropout(linear(hidden).relu())
            hidden = hidden + active if self.config.residual and layer > 0 else active
        update = self.update(hidden)
        forget_gate = self.forget(hidden).sigmoid()
        input_gate = self.input(hidden).sigmoid()
        context = self.norm(forget_gate * context + input_gate * update)
        return hidden, context.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        state: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs,
    ) -> NewLLMOutput | tuple[Tensor, ...]:
        """Reads texts beside one another.

        Args:
            input_ids: ids [B, T].
            attention_mask: [B, T'] with T' >= T, of which the last T count; where it is 0 the token is not read, so
                that padding may stand anywhere. The logits there mean nothing.
            state: the context [B, C] after what was read before; None: nothing was.
            inputs_embeds: embeddings [B, T, E] instead of ids.
            labels: ids [B, T], equal to `input_ids` (they are shifted here); -100 counts nowhere.
            use_cache: whether to return the state.
            logits_to_keep: only the logits of so many last positions; 0: of all.
            return_dict: whether to return an object instead of a tuple.
        """
        embeddings = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        context = embeddings.new_zeros(len(embeddings), self.config.context_dim) if state is None else state
        read = None if attention_mask is None else attention_mask[:, -embeddings.shape[1] :, None].bool()
        hidden_states = []
        for t in range(embeddings.shape[1]):
            hidden, following = self.step(embeddings[:, t], context)
            context = following if read is None else torch.where(read[:, t], following, context)
            hidden_states.append(hidden)
        logits = self.output(torch.stack(hidden_states[-logits_to_keep:], dim=1))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        found = NewLLMOutput(loss=loss, logits=logits, state=context if use_cache else None)
        return found.to_tuple() if return_dict is False else found

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.output

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.output = new_embeddings

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # of keys and values, which there are none of

    def _update_model_kwargs_for_generation(self, outputs: NewLLMOutput, model_kwargs: dict, *args, **kwargs) -> dict:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        return model_kwargs if outputs.state is None else model_kwargs | {"state": outputs.state}

    def _reorder_cache(self, state: Tensor, beam_idx: Tensor) -> Tensor:
        return state.index_select(0, beam_idx)
